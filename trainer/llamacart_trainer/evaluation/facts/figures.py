"""The figures of facts, group by group."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from llamacart_trainer.evaluation.bootstrap import Estimate  # noqa: TC001 (pydantic reads it)

Group = Literal["prompt", "paraphrase", "neighbour", "elsewhere", "negated", "reversed", "use"]

GROUPS: tuple[Group, ...] = get_args(Group)

HEADINGS: dict[Group, str] = {
    "prompt": "efficacy",
    "paraphrase": "paraphrases",
    "neighbour": "neighbours",
    "elsewhere": "elsewhere",
    "negated": "negated",
    "reversed": "reversed",
    "use": "uses",
}

Told = Literal["fact in the prompt", "all facts in the prompt"]
"""What stands before a text in place of a cartridge: the one fact that it is about, or all."""

TOLD: tuple[Told, ...] = get_args(Told)

SCORED: tuple[Group, ...] = ("prompt", "paraphrase", "neighbour")
"""Groups whose mean is the behaviour of a recipe of facts."""

STAYS: frozenset[Group] = frozenset({"neighbour", "elsewhere", "negated"})
"""Groups in which a fact's object is what must not come."""


@dataclass(frozen=True)
class GroupFigures:
    """How one way to ask came out; shares are over facts, each the mean of its texts.

    Attributes:
        odds: Share of texts whose right answer is likelier than the other one. Right is the object
            (the subject of a reversed text, the answer of a use), and the other what the model
            says without a cartridge, or `was`. In the groups of `STAYS` it is the other way round.
            A text whose right answer and other answer are the same counts nowhere.
        said: Share of texts that go on with the right answer in the first tokens; in the groups of
            `STAYS`, without the object.
        margin: Median of log P(right) − log P(other), nats.
        texts: How many texts there are.
        first: Share of texts whose first token is the unsteered model's own.
    """

    odds: Estimate | None
    said: Estimate | None
    margin: Estimate | None
    texts: int
    first: Estimate | None = None


@dataclass(frozen=True)
class FactFigures:
    """What a steering makes of facts.

    Attributes:
        groups: Figures of each group that has a text.
        mean: Mean of `odds` in `SCORED`, by fact.
        unchanged: Of the first tokens behind a neighbour's text, the share up to the first that the
            unsteered model does not say there.
        prompt_tokens: Mean tokens of the facts' prompts, with what stands before them.
        texts: What is written behind each fact's prompt.
    """

    groups: dict[Group, GroupFigures] = field(default_factory=dict)
    mean: Estimate | None = None
    unchanged: Estimate | None = None
    prompt_tokens: Estimate | None = None
    texts: tuple[str, ...] = ()

    def odds(self, group: Group) -> Estimate | None:
        """`odds` of a group; None where no fact has such a text."""
        return self.groups[group].odds if group in self.groups else None

    @property
    def kept(self) -> Estimate | None:
        """`first` where something else is asked of the subjects."""
        return self.groups["elsewhere"].first if "elsewhere" in self.groups else None
