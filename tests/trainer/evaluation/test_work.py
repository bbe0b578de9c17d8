from __future__ import annotations

import pytest

from llamacart.passes.watching import computed
from llamacart_trainer.evaluation.plan import EvaluationPlan, Prompt
from llamacart_trainer.evaluation.work import LayersDone, Work, guess_rows


def test_what_comes_again_is_reckoned_by_what_it_took() -> None:
    told: list[tuple[str, float]] = []
    work = Work(lambda what, share: told.append((what, share)), guess=100)
    with work.on("a", "steered"):
        computed(50)
        computed(150)
    with work.on("b", "steered"):
        computed(50)
    with work.on("c", "prompt", more=100):
        computed(50)
    computed(9)
    assert told == [
        ("a", 0.0),
        ("a, 50 tokens", 0.5),
        ("a, 200 tokens", 0.99),
        ("b", 0.0),
        ("b, 50 tokens", 0.25),
        ("c", 0.0),
        ("c, 50 tokens", 0.25),
    ]


def test_what_fails_is_no_measure_of_the_next() -> None:
    told: list[float] = []
    work = Work(lambda _what, share: told.append(share), guess=100)

    def fail() -> None:
        with work.on("a", "steered"):
            computed(1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with work.on("a", "steered"):
        computed(10)
    assert told == [0.0, 0.01, 0.0, 0.1]


def test_layers() -> None:
    told: list[tuple[str, float]] = []
    done = LayersDone("ridge", lambda what, share: told.append((what, share)))
    done.on_layers([3, 4])
    for _ in range(2):
        done.on_layer(None)  # type: ignore[arg-type]
    assert told == [("ridge, layer 1 of 2", 0.5), ("ridge, layer 2 of 2", 1.0)]


def test_a_guess_counts_prompts_for_each_pass() -> None:
    plan = EvaluationPlan("x", (Prompt("a" * 40),), tokens=20, neutral=("b" * 80,))
    assert guess_rows(plan, 1) == 10 + 20 + 20
    assert guess_rows(plan, 3) == 3 * 30 + 20
