"""What an evaluation finds, as frozen dataclasses that go to JSON and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from llamacart.errors import InputError
from llamacart_trainer.evaluation.bootstrap import Estimate  # noqa: TC001 (pydantic reads it)
from llamacart_trainer.evaluation.facts.figures import FactFigures  # noqa: TC001 (the same)
from llamacart_trainer.evaluation.significance import Contrast  # noqa: TC001 (the same)
from llamacart_trainer.recipe.validation import InvalidValue

Kind = Literal["unsteered", "ceiling", "prompted", "prompt", "cartridge", "control-vector"]
"""`prompted`: the model behind the prompt that the recipe distils. `prompt`: behind another."""

PROMPTS: tuple[Kind, ...] = ("prompted", "prompt")
FIXED: tuple[Kind, ...] = ("unsteered", "ceiling", *PROMPTS)
"""Kinds that know no α."""

Plane = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Scores:
    """Figures of one steering at one strength, each with its interval over prompts or texts.

    Attributes:
        behaviour: Mean of the plan's scorer, or share of answers that go over to the target.
        nll: Nats a token of the continuations under the unsteered model.
        nll_settled: The same without each continuation's first tokens, which pay for the change
            from the prompt's manner to another.
        nll_switched: For the ceiling alone: nats a token of its continuations behind the prompts
            themselves. It is what the model's own text costs there, so what `nll` compares with.
        distinct: Distinct-2 of the continuations' tokens.
        repetition: Share of their tokens in a 4-gram that occurred before.
        kl: KL(unsteered ‖ steered) on neutral texts, nats a token.
        perplexity_english: Of the fixed English text under steering.
        perplexity_french: Of the fixed French text under steering.
        log_odds: Median of log P(target) − log P(original) over the answers.
        p_target: Mean P(target) over the answers' prompts.
        p_leaked: The same over the answers marked neutral: where it should not appear.
        written: Share of continuations that are long enough to be judged; those that are not
            count as failures in `behaviour`, `distinct` and `repetition`. An answer may be short,
            but not empty.
        ended: Share of answers that came to an end within the tokens that they might take.
        length: Mean tokens of an answer.
        prompt_tokens: Mean tokens of the prompts, with what stands before them.
        kl_prompted: KL(prompted model ‖ this) on the prompted model's own answers, nats a token.
        agreement: Share of those tokens at which both think the same token the likeliest.
        removed: 1 − `kl_prompted` / that of the unsteered model.
        facts: Figures of the plan's facts.
        texts: Continuations, in the order of the plan's prompts.
        seconds: Wall time it took.

    A figure is None where it was not or could not be measured; no ranking prefers that to a figure.
    """

    behaviour: Estimate | None
    nll: Estimate | None
    distinct: Estimate | None
    repetition: Estimate | None
    kl: Estimate | None = None
    perplexity_english: Estimate | None = None
    perplexity_french: Estimate | None = None
    log_odds: Estimate | None = None
    p_target: Estimate | None = None
    p_leaked: Estimate | None = None
    nll_settled: Estimate | None = None
    nll_switched: Estimate | None = None
    written: Estimate | None = None
    ended: Estimate | None = None
    length: Estimate | None = None
    prompt_tokens: Estimate | None = None
    kl_prompted: Estimate | None = None
    agreement: Estimate | None = None
    removed: Estimate | None = None
    facts: FactFigures | None = None
    texts: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def efficacy(self) -> Estimate | None:
        """Share of facts whose prompt goes on with the object sooner than as before."""
        return None if self.facts is None else self.facts.odds("prompt")

    @property
    def paraphrases(self) -> Estimate | None:
        """The same of other ways to ask."""
        return None if self.facts is None else self.facts.odds("paraphrase")

    @property
    def neighbours(self) -> Estimate | None:
        """Share of other subjects that go on as before sooner than with the object."""
        return None if self.facts is None else self.facts.odds("neighbour")


@dataclass(frozen=True)
class Point:
    """A contender at one strength.

    Attributes:
        label: The contender's name.
        kind: What it is.
        alpha: α; 0 for what knows none: the unsteered model, the ceiling and prompts.
        scores: Its figures.
    """

    label: str
    kind: Kind
    alpha: float
    scores: Scores


@dataclass(frozen=True)
class Measured:
    """How much of each kind figures were taken over."""

    prompts: int
    answers: int
    neutral: int
    facts: int = 0

    def __str__(self) -> str:
        counts = {
            "prompts": self.prompts,
            "answers": self.answers,
            "facts": self.facts,
            "neutral texts": self.neutral,
        }
        return ", ".join(
            f"{count} {name if count > 1 else name.removesuffix('s')}"
            for name, count in counts.items()
            if count
        )


@dataclass(frozen=True)
class Difference:
    """What sets one contender apart from another on the test prompts, each at its best α.

    Attributes:
        label: The one.
        alpha: Its α.
        other: The other.
        other_alpha: Its α.
        figures: Field of `Scores` → figure of the one minus that of the other; p is corrected
            over all figures of all differences of the evaluation.
    """

    label: str
    alpha: float
    other: str
    other_alpha: float
    figures: dict[str, Contrast]


@dataclass(frozen=True)
class LayerFidelity:
    """How one layer's map does on held-out rows; see `HeldOutEvaluator`.

    Attributes:
        layer: Index.
        kept: Active neurons K.
        rows: Held-out paired rows N.
        fidelity: Cosine between the ideal step (target − input) and the step at α = 1.
        force: Length of the step over that of the ideal one.
        r2: Share of the target's variance about its held-out mean that input + step explains;
            negative where the mean would do better.
        r2_before: The same of the input alone: what the step has to beat.
    """

    layer: int
    kept: int
    rows: int
    fidelity: float
    force: float
    r2: float
    r2_before: float = 0.0


@dataclass(frozen=True)
class Projection:
    """Held-out rows of one layer at its active neurons, on their first two principal axes.

    The axes are those of base and target rows together.

    Attributes:
        layer: Index.
        explained: Share of the variance of each axis.
        base: Source rows of the unsteered model, [N, 2].
        input: Source rows as the layers before, steered, hand them over.
        target: Target rows.
        steered: Input rows after this layer's step.
    """

    layer: int
    explained: tuple[float, float]
    base: Plane
    input: Plane
    target: Plane
    steered: Plane


@dataclass(frozen=True)
class HeldOut:
    """Fidelity on held-out pairs of one cartridge, and the picture of one layer."""

    layers: tuple[LayerFidelity, ...]
    projection: Projection | None = None


@dataclass(frozen=True)
class CartridgeFacts:
    """What a report says of a cartridge beside its scores.

    Attributes:
        name: Its label among the points.
        description: For people.
        solver: Of the fit.
        content_hash: Of what acts.
        default_alpha: As the file has it.
        n_active: Active neurons in all layers.
        settings: Of the fit.
        diagnostics: Of the fit: rows, seconds, per-layer figures and spectra.
        heldout: Figures on held-out rows, None without held-out pairs.
    """

    name: str
    description: str
    solver: str
    content_hash: str
    default_alpha: float
    n_active: int
    settings: dict[str, Any]
    diagnostics: dict[str, Any]
    heldout: HeldOut | None = None


@dataclass(frozen=True)
class Evaluation:
    """A whole comparison: the input of the reports.

    Attributes:
        recipe: Name.
        model: Name and fingerprint of the model.
        behaviour: What the behaviour score is, for people.
        objective: How points are ranked, for people.
        prompts: Texts of the test that were continued.
        references: Their references, None where one is missing.
        points: Every contender at every strength, on what α was chosen on.
        tests: Every contender at its α, on the test alone; the same points where there was
            nothing to choose.
        best: For each label the α that the objective prefers among `points`.
        frontier: (label, α) of the points that none beats in everything.
        tested_on: What `tests` were taken over.
        chosen_on: What `points` were taken over, which shares no prompt, answer or neutral text
            with the test; None where there was one α and so nothing to choose.
        cartridges: Facts of each cartridge.
        differences: The first contender against each of the others.
        created: ISO 8601 time, UTC.
        tool_version: Version of llamacart.
    """

    recipe: str
    model: str
    behaviour: str
    objective: str
    prompts: tuple[str, ...]
    references: tuple[str | None, ...]
    points: tuple[Point, ...]
    tests: tuple[Point, ...]
    best: dict[str, float]
    frontier: tuple[tuple[str, float], ...]
    cartridges: tuple[CartridgeFacts, ...]
    tested_on: Measured
    chosen_on: Measured | None = None
    differences: tuple[Difference, ...] = ()
    created: str = ""
    tool_version: str = ""

    def to_json(self) -> str:
        """The evaluation as indented JSON."""
        return _ADAPTER.dump_json(self, indent=2).decode()

    @classmethod
    def from_json(cls, text: str) -> Evaluation:
        """Read what `to_json` wrote.

        Raises:
            InputError: It is no evaluation; the message names the first field at fault.
        """
        try:
            return _ADAPTER.validate_json(text)
        except ValidationError as error:
            first = InvalidValue.first(error)
            where = ".".join(map(str, first.place)) or "the whole"
            raise InputError(f"no evaluation: {where}: {first.message}") from error

    def is_best(self, point: Point) -> bool:
        """Whether the point is to be shown as its contender's best.

        A strength at which the behaviour is never seen is nobody's best, even where all of them
        are like that.
        """
        if point.kind in FIXED or self.best[point.label] != point.alpha:
            return False
        measured = any(each.scores.behaviour is not None for each in self.points)
        behaviour = point.scores.behaviour
        return not measured or (behaviour is not None and behaviour.value > 0)

    @property
    def provenance(self) -> str:
        """What α was chosen on and what was tested, for captions."""
        if self.chosen_on is None:
            return f"One α, so nothing was chosen; tested on {self.tested_on}."
        return f"α chosen on {self.chosen_on}; tested on others: {self.tested_on}."


_ADAPTER = TypeAdapter(Evaluation)
