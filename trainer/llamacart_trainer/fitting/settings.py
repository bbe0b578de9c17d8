"""What decides the fit of a layer, and the figures that come of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from llamacart_trainer.recipe.target import Target

Rank = int | Literal["auto", "full"]
StorageName = Literal["q8_0", "q5_0", "q4_0", "auto"]


@dataclass(frozen=True)
class FitSettings:
    """What decides one layer's fit.

    Attributes:
        threshold: δ of the neuron selection; not looked at where a gap is to be closed.
        penalty: λ, or `auto`: chosen by cross-validation. Where a gap is to be closed, as a share
            of the mean of the diagonal of X̄ᵀX̄.
        solver: A key of `SOLVERS`.
        impact: Least mean step of a neuron that is kept.
        rank: r of the factors U [K, r] and V [r, D] that stand for W − E_S; `auto` takes for each
            layer the least that loses no more than `AUTO_LOSS` of its steps, `full` no factors.
        storage: How W − E_S is stored; `auto` takes for each layer the narrowest blocks that
            change its steps by no more than `ROUNDING_TOLERANCE`.
        target: What a layer is fitted to: the target text's activations, or its residual stream.
        neurons: Most neurons K of a layer where a gap is to be closed.
        neutral_weight: How often a neutral row counts; `auto`: see
            `llamacart_trainer.fitting.chunks.neutral_weight`.
        step: Share of the gap that a layer is asked to close.
        lengthen: Steps are lengthened until their parts along gaps close those; see
            `llamacart_trainer.fitting.gap.reach`.
    """

    threshold: float
    penalty: float | Literal["auto"]
    solver: str = "ridge-identity"
    impact: float = 0.0
    rank: Rank = "full"
    storage: StorageName = "q8_0"
    target: Target = "activation"
    neurons: int = 150
    neutral_weight: float | Literal["auto"] = "auto"
    step: float = 1.0
    lengthen: bool = False

    @property
    def closes_gap(self) -> bool:
        """Whether a layer is to close a gap behind its FFN, not to copy activations."""
        return self.target != "activation"


@dataclass(frozen=True)
class LayerReport:
    """Figures of one layer's fit, over its rows without the neutral ones.

    Attributes:
        layer: Index.
        candidates: Neurons selected, by δ or by the gap.
        kept: Those left by the impact filter.
        mean_step: Mean |step| over rows and kept neurons.
        fidelity: Cosine between the ideal step (target − input) and the applied step, over all
            rows at the kept neurons. Where rows are not paired, between the mean steps.
        force: Length of the applied step over that of the ideal one; of the mean steps where
            rows are not paired.
        penalty: The λ used, as in `FitSettings`; 0 where the solver has none.
        r2: Share of the targets' variance that the steered rows explain; 0 where rows are not
            paired.
        rounding: Length of what rounding for storage changes in the steps, over their length.
        rank: r of its factors; 0 where its matrix is whole.
        cut: Length of what the factors lose of the steps, over their length; see
            `llamacart_trainer.solvers.factors`.
        spectrum: Largest singular values of W − prior before it is cut, at most 32.
        curve: (λ, held-out mean squared error) where λ was chosen by cross-validation.
        closed: Share of the gap that the applied steps close, 1 − ‖gap − D_S step‖² / ‖gap‖²;
            0 where activations are copied.
    """

    layer: int
    candidates: int
    kept: int
    mean_step: float = 0.0
    fidelity: float = 0.0
    force: float = 0.0
    penalty: float = 0.0
    r2: float = 0.0
    rounding: float = 0.0
    rank: int = 0
    cut: float = 0.0
    spectrum: tuple[float, ...] = ()
    curve: tuple[tuple[float, float], ...] = ()
    closed: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """The figures as a JSON object, to six significant digits."""
        return {name: _rounded(value) for name, value in asdict(self).items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_rounded(v) for v in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
