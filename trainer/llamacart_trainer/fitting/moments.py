"""Sums over rows that stream past: all that the closed forms need, in memory of a fixed size.

A chunk is centred on its own mean before its products are taken, and two sums are joined by
Chan's update, so that a large mean costs no digits however many rows there are. Products of one
chunk are taken in the rows' own precision, their sums in float64.

Source: Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm for computing sample
variances (1979).
"""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import erf

from llamacart.disk.whole import whole_file
from llamacart.errors import InputError, RecipeError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Floats = NDArray[np.floating[Any]]
    Doubles = NDArray[np.float64]
    Neurons = NDArray[np.integer[Any]]

_FIELDS = ("mean_x", "mean_y", "size_x", "xx", "xy", "yy")


@dataclass(frozen=True)
class Scatter:
    """Means and centred sums of products of N source and M target rows; `Activations`.

    Target rows may be of another width W than D, and are then no activations: see
    `llamacart_trainer.fitting.gap.reach`.

    Attributes:
        n_x: Source rows N, each as often as it counts.
        n_y: Target rows M.
        mean_x: μ_X [D].
        mean_y: μ_Y [W].
        size_x: Mean |x| [D].
        xx: X̄ᵀX̄ [D, D].
        xy: X̄ᵀȲ [D, W]; zero where rows are not paired.
        yy: ȲᵀȲ [W, W].
        paired: Whether source row i belongs to target row i.
    """

    n_x: float
    n_y: float
    mean_x: Doubles
    mean_y: Doubles
    size_x: Doubles
    xx: Doubles
    xy: Doubles
    yy: Doubles
    paired: bool = True

    @classmethod
    def empty(cls, width: int, *, paired: bool = True, aim_width: int | None = None) -> Scatter:
        """Of no rows, for D = `width` and W = `aim_width`, or D where that is None."""
        none = np.zeros((0, width))
        aims = none if aim_width is None else np.zeros((0, aim_width))
        return cls.of(none, aims, paired=paired)

    @classmethod
    def of(
        cls, x: Floats, y: Floats, weights: Floats | None = None, *, paired: bool = True
    ) -> Scatter:
        """Of rows x [N, D] and y [M, W]; M = N where they are `paired`.

        Args:
            x: Source rows.
            y: Target rows.
            weights: How often each row counts [N]; None means once. Only where rows are paired.
            paired: Whether row i of `x` belongs to row i of `y`.
        """
        n_x, n_y = (len(x), len(y)) if weights is None else (_total(weights), _total(weights))
        mean_x = _mean(x, weights)
        mean_y = mean_x if y is x else _mean(y, weights)
        roots = None if weights is None else np.sqrt(weights)[:, None].astype(x.dtype)
        centred_x = _centred(x, mean_x, roots)
        xx = np.asarray(centred_x.T @ centred_x, np.float64)
        if y is x and paired:
            xy = yy = xx
        else:
            centred_y = _centred(y, mean_y, roots)
            cross = centred_x.T @ centred_y if paired else np.zeros((x.shape[1], y.shape[1]))
            xy = np.asarray(cross, np.float64)
            yy = np.asarray(centred_y.T @ centred_y, np.float64)
        return cls(
            n_x=n_x,
            n_y=n_y,
            mean_x=mean_x,
            mean_y=mean_y,
            size_x=_mean(np.abs(x), weights),
            xx=xx,
            xy=xy,
            yy=yy,
            paired=paired,
        )

    def joined(self, other: Scatter) -> Scatter:
        """Of the rows of both."""
        n_x, n_y = self.n_x + other.n_x, self.n_y + other.n_y
        share_x, share_y = other.n_x / (n_x or 1), other.n_y / (n_y or 1)
        apart_x, apart_y = other.mean_x - self.mean_x, other.mean_y - self.mean_y
        between_x, between_y = self.n_x * share_x, self.n_y * share_y
        return Scatter(
            n_x=n_x,
            n_y=n_y,
            mean_x=self.mean_x + share_x * apart_x,
            mean_y=self.mean_y + share_y * apart_y,
            size_x=self.size_x + share_x * (other.size_x - self.size_x),
            xx=self.xx + other.xx + between_x * np.outer(apart_x, apart_x),
            xy=self.xy + other.xy + self.paired * between_x * np.outer(apart_x, apart_y),
            yy=self.yy + other.yy + between_y * np.outer(apart_y, apart_y),
            paired=self.paired,
        )

    def variance_x(self) -> float:
        """Mean of the diagonal of X̄ᵀX̄."""
        return float(np.trace(self.xx)) / len(self.xx)

    @property
    def lower_x(self) -> Doubles:
        """X̄ᵀX̄ [D, D]."""
        return self.xx

    def scatter_x(self, neurons: Neurons | None = None) -> Doubles:
        """X̄ᵀX̄ at S [K, K], or [D, D] where `neurons` is None."""
        return self.xx if neurons is None else np.asarray(self.xx[np.ix_(neurons, neurons)])

    def scatter_y(self, neurons: Neurons) -> Doubles:
        """ȲᵀȲ at S [K, K]."""
        return np.asarray(self.yy[np.ix_(neurons, neurons)])

    def scatter_steps(self, delta: Floats) -> Doubles:
        """Delta X̄ᵀX̄ deltaᵀ [K, K]."""
        delta = np.asarray(delta, np.float64)
        return np.asarray(delta @ self.xx @ delta.T)

    def cross(self, neurons: Neurons) -> Doubles:
        """X̄ᵀȲ_S [D, K]; the rows must be paired."""
        return np.asarray(self.xy[:, neurons])

    def mean_abs(self, delta: Floats, bias: Floats) -> Doubles:
        """Mean |delta x + b| [K], as it is where steps are normally distributed.

        The rows are gone, so this is the mean of the folded normal distribution with the steps'
        own mean m and deviation s: s √(2/π) exp(−m²/2s²) + m erf(m / s√2).
        """
        delta = np.asarray(delta, np.float64)
        mean = delta @ self.mean_x + bias
        variance = np.einsum("kd,kd->k", delta @ self.xx, delta) / (self.n_x or 1)
        deviation = np.sqrt(np.maximum(variance, 1e-300))
        ratio = mean / deviation / np.sqrt(2)
        folded: Doubles = deviation * np.sqrt(2 / np.pi) * np.exp(-(ratio**2)) + mean * erf(ratio)
        return folded

    def steps(self, delta: Floats, bias: Floats) -> float:
        """Sum over source rows of ‖delta x + b‖²."""
        delta = np.asarray(delta, np.float64)
        mean = delta @ self.mean_x + bias
        return float(((delta @ self.xx) * delta).sum() + self.n_x * (mean @ mean))

    def agreement(self, delta: Floats, bias: Floats, neurons: Neurons) -> tuple[float, float]:
        """Σ ⟨delta x + b, y_S − x_S⟩ and Σ ‖y_S − x_S‖²; the rows must be paired."""
        delta = np.asarray(delta, np.float64)
        cross = self.xy[:, neurons]
        shift = (self.mean_y - self.mean_x)[neurons]
        product = (delta.T * (cross - self.xx[:, neurons])).sum()
        product += self.n_x * ((delta @ self.mean_x + bias) @ shift)
        ideal = np.trace(self.scatter_x(neurons)) + np.trace(self.scatter_y(neurons))
        ideal += self.n_x * (shift @ shift) - 2 * np.trace(cross[neurons])
        return float(product), float(ideal)


@dataclass
class Moments:
    """Running sums of one layer's rows; what teaches and what is to stay apart from each other.

    Args:
        width: D.
        paired: Whether source row i belongs to target row i.
        gaps: W, where target rows are gaps of that width and neutral rows have none; None where
            they are activations.

    Attributes:
        pairs: Of the rows that differ.
        neutral: Of the rows added for locality, whose target is their source; None until there
            is one, for it takes as much memory as `pairs`.
    """

    width: int
    paired: bool = True
    gaps: int | None = None
    pairs: Scatter = field(init=False)
    neutral: Scatter | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.pairs = Scatter.empty(self.width, paired=self.paired, aim_width=self.gaps)

    def add(
        self,
        x: Floats,
        y: Floats,
        neutral: NDArray[np.bool_] | None = None,
        weights: Floats | None = None,
    ) -> None:
        """Add source rows x [N, D] and target rows y [M, W].

        Args:
            x: Source activations.
            y: Target activations, or gaps, of the rows that are not neutral; their number M is
                that of those rows where rows are paired.
            neutral: Rows [N] that are to stay; only where rows are paired.
            weights: How often each row counts [N]; None means once. Only where rows are paired.
        """
        if weights is not None and not self.paired:
            raise ValueError("rows that count differently must be paired")
        stays = np.zeros(len(x), np.bool_) if neutral is None else neutral
        left = int((~stays).sum())
        if self.paired and left != len(y):
            raise ValueError(f"{left} source rows cannot be paired with {len(y)} target rows")
        if stays.any():
            if not self.paired:
                raise ValueError("neutral rows must be paired")
            still = x[stays]
            aims = np.zeros((len(still), self.gaps), x.dtype) if self.gaps else still
            found = Scatter.of(still, aims, None if weights is None else weights[stays])
            self.neutral = found if self.neutral is None else self.neutral.joined(found)
            x = x[~stays]
            weights = None if weights is None else weights[~stays]
        if len(x) or len(y):
            self.pairs = self.pairs.joined(Scatter.of(x, y, weights, paired=self.paired))

    def all_rows(self) -> Scatter:
        """Of the rows that differ and the neutral ones together."""
        return self.pairs if self.neutral is None else self.pairs.joined(self.neutral)

    def save(self, path: Path) -> None:
        """Write to `path` (npz), under a temporary name until it is whole and on disk.

        Raises:
            InputError: It cannot be written.
        """
        arrays: dict[str, Any] = {
            "paired": np.array(self.paired),
            "gaps": np.array(self.gaps is not None),
        }
        for label, scatter in (("pairs", self.pairs), ("neutral", self.neutral)):
            if scatter is not None:
                arrays[f"{label}.n"] = np.array([scatter.n_x, scatter.n_y])
                arrays |= {f"{label}.{name}": getattr(scatter, name) for name in _FIELDS}
        try:
            with whole_file(path) as temporary, temporary.open("wb") as file:
                np.savez(file, **arrays)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise InputError(f"cannot write {str(path)!r}: {error.strerror or error}") from error

    @classmethod
    def load(cls, path: Path) -> Moments:
        """Read what `save` has written.

        Raises:
            RecipeError: There is no such file, or it is damaged.
        """
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                arrays = dict(stored)
            pairs = _scatter(arrays, "pairs")
            gaps = len(pairs.mean_y) if arrays["gaps"] else None
            moments = cls(len(pairs.mean_x), pairs.paired, gaps)
            moments.pairs = pairs
            if "neutral.n" in arrays:
                moments.neutral = _scatter(arrays, "neutral")
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise RecipeError(f"moments {str(path)!r} cannot be read: {error}") from error
        return moments


def _centred(rows: Floats, mean: Doubles, roots: Floats | None) -> Floats:
    """Rows less their mean, each times its root."""
    out = rows - mean.astype(rows.dtype)
    if roots is not None:
        out *= roots
    return out


def _mean(rows: Floats, weights: Floats | None) -> Doubles:
    """Mean row [D]; zero where there is none."""
    if weights is None:
        return np.asarray(rows.sum(axis=0, dtype=np.float64) / max(len(rows), 1))
    total = np.einsum("n,nd->d", weights, rows, dtype=np.float64)
    return np.asarray(total / (_total(weights) or 1.0))


def _total(weights: Floats) -> float:
    return float(weights.sum(dtype=np.float64))


def _scatter(arrays: dict[str, Any], label: str) -> Scatter:
    paired = bool(arrays["paired"])
    n_x, n_y = arrays[f"{label}.n"]
    parts = {name: np.asarray(arrays[f"{label}.{name}"], np.float64) for name in _FIELDS}
    widths = {"x": len(parts["mean_x"]), "y": len(parts["mean_y"])}
    for name, values in parts.items():
        axes = name.removeprefix("mean_").removeprefix("size_")
        shape = tuple(widths[axis] for axis in axes)
        if values.shape != shape or not np.isfinite(values).all():
            raise ValueError(f"{label}.{name} is not finite or has shape {values.shape}")
    return Scatter(
        float(n_x),
        float(n_y),
        mean_x=parts["mean_x"],
        mean_y=parts["mean_y"],
        size_x=parts["size_x"],
        xx=parts["xx"],
        xy=parts["xy"],
        yy=parts["yy"],
        paired=paired,
    )
