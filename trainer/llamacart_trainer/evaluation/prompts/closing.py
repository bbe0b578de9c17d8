"""One sentence that says how near a cartridge comes to a prompt, and at which α."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamacart_trainer.evaluation.objective import good
from llamacart_trainer.evaluation.results import PROMPTS
from llamacart_trainer.evaluation.significance import contrast

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from llamacart_trainer.evaluation.bootstrap import Estimate
    from llamacart_trainer.evaluation.results import Evaluation, Point
    from llamacart_trainer.evaluation.significance import Contrast


def closing_sentence(cartridge: Point, others: Iterable[Point], *, seed: int = 0) -> str:
    """What a cartridge does at its α, beside the prompts that it could replace.

    Args:
        cartridge: The cartridge at its α, on prompts that have not chosen it.
        others: The unsteered model and the prompts, on the same.
        seed: Of the tests.
    """
    beside = [point for point in others if point.kind in ("unsteered", *PROMPTS)]
    prompts = [point for point in beside if point.kind in PROMPTS]
    teacher = next((point for point in prompts if point.kind == "prompted"), None)
    at = f"α {cartridge.alpha:g}"
    if cartridge.scores.removed is not None:
        parts = [f"At {at} the cartridge removes {_distance(cartridge, beside)}"]
        parts += _more(cartridge, teacher, beside)
    elif cartridge.scores.behaviour is None:
        parts = [f"{at}: no behaviour was measured on {_count(cartridge.scores.nll)} texts"]
        parts += _locality(cartridge)
    else:
        against = _strongest(prompts)
        told = _alone(cartridge, beside) if against is None else _verdict(cartridge, against, seed)
        parts = [f"{at}: {told}", *_locality(cartridge)]
    return "; ".join(parts) + "."


def closing_sentences(evaluation: Evaluation) -> tuple[str, ...]:
    """The sentence of each cartridge of an evaluation that has prompts to be compared with."""
    if not any(point.kind in PROMPTS for point in evaluation.tests):
        return ()
    steered = [point for point in evaluation.tests if point.kind == "cartridge"]
    return tuple(f"{point.label}: {closing_sentence(point, evaluation.tests)}" for point in steered)


def _distance(cartridge: Point, beside: Sequence[Point]) -> str:
    removed, left = cartridge.scores.removed, cartridge.scores.kl_prompted
    before = next((p.scores.kl_prompted for p in beside if p.kind == "unsteered"), None)
    if removed is None or left is None:
        raise ValueError("the distance to the prompted model was not measured")
    low, high = _percent(removed.low), _percent(removed.high)
    share = (
        f"{_percent(removed.value)} of the distance to the prompted model (95 %: {low} to {high})"
    )
    fall = f"KL {before.value:.2f} → {left.value:.2f} nats a token" if before else ""
    return f"{share} on {removed.n} prompts{f', {fall}' * bool(fall)}"


def _more(cartridge: Point, teacher: Point | None, beside: Sequence[Point]) -> list[str]:
    """Behaviour beside the prompt's, other texts, what the prompt no longer takes."""
    told = []
    found = cartridge.scores.behaviour
    if found is not None:
        others = [
            f"{_figure(point.scores.behaviour)} {where}"
            for where, point in (
                ("behind the prompt", teacher),
                ("without either", next((p for p in beside if p.kind == "unsteered"), None)),
            )
            if point is not None and point.scores.behaviour is not None
        ]
        told.append(f"behaviour {_figure(found)}{' beside ' * bool(others)}{' and '.join(others)}")
    told += _locality(cartridge)
    if teacher is not None:
        own, behind = cartridge.scores.prompt_tokens, teacher.scores.prompt_tokens
        if own is not None and behind is not None:
            saved = round(behind.value - own.value)
            # A template may write a system text of its own where there is none.
            told.append(
                f"{saved} prompt tokens are saved a request"
                if saved >= 0
                else f"a request is {-saved} tokens longer, by what the template writes itself"
            )
    return told


def _locality(cartridge: Point) -> list[str]:
    kl = cartridge.scores.kl
    return [] if kl is None else [f"other texts change by {kl.value:.2f} nats a token"]


def _alone(cartridge: Point, beside: Sequence[Point]) -> str:
    before = next((_figure(p.scores.behaviour) for p in beside if p.scores.behaviour), "")
    unsteered = f" (unsteered: {before})" if before else ""
    return f"behaviour {_figure(cartridge.scores.behaviour)}{unsteered}"


def _verdict(cartridge: Point, prompt: Point, seed: int) -> str:
    one, other = cartridge.scores.behaviour, prompt.scores.behaviour
    apart: Contrast | None = contrast(one, other, seed=seed) if one and other else None
    if apart is None:
        return f"behaviour was not measured beside the {prompt.label}"
    name = f"the {prompt.label}"
    figures = (
        f"behaviour {_figure(one)} against {_figure(other)} on {apart.n} prompts (95 % of the "
        f"difference: {apart.low:+.2f} to {apart.high:+.2f})"
    )
    if apart.sign > 0:
        return f"better than {name} by {apart.value:.2f}: {figures}"
    if apart.sign < 0:
        return f"worse than {name} by {-apart.value:.2f}: {figures}"
    return f"not told apart from {name}: {figures}"


def _strongest(prompts: Sequence[Point]) -> Point | None:
    """The prompt with the most behaviour."""
    measured = [p for p in prompts if p.scores.behaviour is not None]
    return max(measured, key=lambda p: good(p.scores.behaviour), default=None)


def _percent(share: float) -> str:
    return f"{round(100 * share)} %"


def _figure(value: Estimate | None) -> str:
    return "" if value is None else f"{value.value:.2f}"


def _count(value: Estimate | None) -> int:
    return 0 if value is None else value.n
