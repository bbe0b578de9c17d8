"""The sentence at the end, from made figures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from llamacart_trainer.evaluation.bootstrap import Estimate, estimate
from llamacart_trainer.evaluation.prompts.closing import closing_sentence
from llamacart_trainer.evaluation.results import Kind, Point, Scores


def share(ones: int, n: int = 40) -> Estimate:
    return estimate([1.0] * ones + [0.0] * (n - ones), statistic="share")


def point(label: str, kind: Kind, alpha: float = 0.0, **figures: Any) -> Point:
    empty = Scores(None, None, None, None)
    return Point(label, kind, alpha, replace(empty, **figures))


def one(value: float) -> Estimate:
    return Estimate(value, value - 0.01, value + 0.01, 40)


UNSTEERED = point(
    "unsteered", "unsteered", behaviour=share(0), kl_prompted=one(1.64), prompt_tokens=one(39)
)
PROMPTED = point(
    "prompted model", "prompted", behaviour=share(40), kl_prompted=one(0), prompt_tokens=one(251)
)


def test_how_near_it_comes_to_the_prompt_that_it_distils() -> None:
    mine = point(
        "mine", "cartridge", 1.0, removed=one(0.93), kl_prompted=one(0.12), behaviour=share(38),
        kl=one(0.044), prompt_tokens=one(39),
    )  # fmt: skip
    assert closing_sentence(mine, [UNSTEERED, PROMPTED, mine]) == (
        "At α 1 the cartridge removes 93 % of the distance to the prompted model (95 %: 92 % to "
        "94 %) on 40 prompts, KL 1.64 → 0.12 nats a token; behaviour 0.95 beside 1.00 behind the "
        "prompt and 0.00 without either; other texts change by 0.04 nats a token; 212 prompt "
        "tokens are saved a request."
    )
    bare = replace(mine, scores=replace(mine.scores, behaviour=None, kl=None))
    assert closing_sentence(bare, [UNSTEERED, PROMPTED]) == (
        "At α 1 the cartridge removes 93 % of the distance to the prompted model (95 %: 92 % to "
        "94 %) on 40 prompts, KL 1.64 → 0.12 nats a token; 212 prompt tokens are saved a request."
    )
    short = replace(PROMPTED, scores=replace(PROMPTED.scores, prompt_tokens=one(27)))
    assert closing_sentence(bare, [UNSTEERED, short]).endswith(
        "; a request is 12 tokens longer, by what the template writes itself."
    )


@pytest.mark.parametrize(
    ("ones", "begins"),
    [
        (38, "α 0.9: better than the system prompt by 0.45: behaviour 0.95 against 0.50 on 40 "),
        (21, "α 0.9: not told apart from the system prompt: behaviour 0.53 against 0.50 on 40 "),
        (4, "α 0.9: worse than the system prompt by 0.40: behaviour 0.10 against 0.50 on 40 "),
    ],
)
def test_the_verdict_against_the_strongest_prompt(ones: int, begins: str) -> None:
    weaker = point("examples", "prompt", behaviour=share(3))
    stronger = point("system prompt", "prompt", behaviour=share(20))
    mine = point("mine", "cartridge", 0.9, behaviour=share(ones), kl=one(0.1))
    said = closing_sentence(mine, [UNSTEERED, weaker, stronger])
    assert said.startswith(f"{begins}prompts (95 % of the difference: ")
    assert said.endswith("); other texts change by 0.10 nats a token.")


def test_without_a_prompt_or_without_a_behaviour() -> None:
    mine = point("mine", "cartridge", 0.9, behaviour=share(20), nll=one(2.0))
    assert closing_sentence(mine, [UNSTEERED]) == "α 0.9: behaviour 0.50 (unsteered: 0.00)."
    unmeasured = replace(mine, scores=replace(mine.scores, behaviour=None))
    said = "α 0.9: no behaviour was measured on 40 texts."
    assert closing_sentence(unmeasured, [UNSTEERED]) == said
    beside = point("system prompt", "prompt")
    assert closing_sentence(unmeasured, [UNSTEERED, beside]) == said
