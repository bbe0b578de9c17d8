"""A peer's figures: the evaluation's own, asked of the model that the peer has made."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from llamacart.passes.scoring import reference, score_texts
from llamacart.values.steering import UNSTEERED
from llamacart_trainer.evaluation.bootstrap import Estimate, estimate
from llamacart_trainer.evaluation.facts.judge import FactJudge
from llamacart_trainer.evaluation.figures import share_of
from llamacart_trainer.evaluation.locality import MAX_NEUTRAL_ROWS
from llamacart_trainer.evaluation.plan import fixed_text
from llamacart_trainer.evaluation.prompts.conversation import PromptWriter

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from llamacart.llama.model import Model
    from llamacart.passes.scoring import Reference
    from llamacart_trainer.evaluation.facts.figures import FactFigures
    from llamacart_trainer.recipe.facts import Fact

SHARES = {
    "efficacy": ("prompt", "odds"),
    "paraphrases": ("paraphrase", "odds"),
    "neighbours": ("neighbour", "odds"),
    "said": ("prompt", "said"),
    "said to paraphrases": ("paraphrase", "said"),
    "unsaid elsewhere": ("elsewhere", "said"),
    "first word elsewhere": ("elsewhere", "first"),
}
"""Figures of `GroupFigures`, by what a table calls them."""

MEAN = "mean of the first three"


@dataclass(frozen=True)
class Result:
    """What a peer has made of a set of edits.

    Attributes:
        peer: Which.
        skip: Edits that were passed over before the set.
        edits: How many it has.
        values: For each figure one value an edit; edits without such a text are left out.
        kl: From the model as it is, on neutral texts, nats a token.
        prompt_tokens: Tokens of a prompt with all that stands before it.
        settings: The peer's.
        seconds: To fit, on this machine.
        bytes: Of what is changed, as it would be kept.
        thin: Likewise, kept as low-rank; None where that is what `bytes` tells.
        shows: Other figures of the fit.
    """

    peer: str
    skip: int
    edits: int
    values: dict[str, list[float]]
    kl: float | None = None
    prompt_tokens: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    bytes: int | None = None
    thin: int | None = None
    shows: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return asdict(self)


def neutral_reference(model: Model, threads: int | None) -> Reference:
    """The model's logits on the evaluation's neutral texts."""
    kept: list[list[int]] = []
    for text in fixed_text("english"):
        room = MAX_NEUTRAL_ROWS + 1 - sum(len(tokens) - 1 for tokens in kept)
        tokens = model.tokenize(text)[:room]
        if len(tokens) >= 2:
            kept.append(tokens)
    return reference(model, kept, n_threads=threads)


def judge_of(
    model: Model, edits: Sequence[Fact], threads: int | None, before: FactJudge | None = None
) -> FactJudge:
    """Asks a model about edits as the evaluation does.

    Args:
        model: The model.
        edits: They.
        threads: For llama.cpp.
        before: Asks the model as it was before its weights were changed.
    """
    return FactJudge(model, tuple(edits), PromptWriter(model), n_threads=threads, before=before)


def values_of(figures: FactFigures) -> dict[str, list[float]]:
    """One value an edit of each figure."""
    found: dict[str, list[float]] = {}
    for name, (group, kind) in SHARES.items():
        own = figures.groups.get(group)  # type: ignore[call-overload]
        share = getattr(own, kind) if own is not None else None
        found[name] = list(share.values) if share is not None else []
    found[MEAN] = list(figures.mean.values) if figures.mean is not None else []
    return found


def divergence(model: Model, against: Reference, threads: int | None) -> float:
    """Mean KL from the model as it is, nats a token of the neutral texts."""
    scores = score_texts(
        model, against.sequences, against=against, steering=UNSTEERED, n_threads=threads
    )
    return float(np.concatenate(scores.divergences or ()).mean())


def pooled(results: Iterable[Result]) -> dict[str, list[Result]]:
    """Results by peer and number of edits; several sets of a peer stand together."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(f"{result.peer}, {result.edits} edits", []).append(result)
    return groups


def figures_of(results: Sequence[Result]) -> dict[str, Estimate | None]:
    """Shares of several sets' edits together, with Wilson's intervals; the mean's is resampled."""
    together = {
        name: [value for result in results for value in result.values.get(name, [])]
        for name in (*SHARES, MEAN)
    }
    found = {name: share_of(values) for name, values in together.items() if name != MEAN}
    return found | {MEAN: estimate(together[MEAN]) if together[MEAN] else None}


def table_of(results: Iterable[Result]) -> Table:
    """One line a peer and number of edits."""
    table = Table(title="the same edits by peers")
    for heading in ("", *SHARES, MEAN, "KL", "tokens", "seconds", "bytes", "as low-rank"):
        table.add_column(heading, justify="left" if not heading else "right", overflow="fold")
    for label, group in pooled(results).items():
        shares = figures_of(group)
        cells = ["" if s is None else s.short for s in shares.values()]
        table.add_row(
            f"{label} × {len(group)}",
            *cells,
            *(
                _mean(group, name, form)
                for name, form in (
                    ("kl", "{:.3f}"),
                    ("prompt_tokens", "{:.1f}"),
                    ("seconds", "{:.0f}"),
                    ("bytes", "{:.0f}"),
                    ("thin", "{:.0f}"),
                )
            ),
        )
    return table


def _mean(results: Sequence[Result], name: str, form: str) -> str:
    known = [value for r in results if (value := getattr(r, name)) is not None]
    return form.format(np.mean(known)) if known else ""
