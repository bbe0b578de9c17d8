"""A cartridge as products of two narrow matrices: what other engines call a LoRA.

Where a cartridge acts, h_S ← h_S + α ((W − E_S) h + b), the down projection D gives D h + α D_S
((W − E_S) h + b), with D_S its columns at S. The linear part is a LoRA on the down projection: A =
W − E_S [K, D], B = α D_S [E, K]. A LoRA has no place for b. It is folded into A as b uᵀ, where u
[D] is chosen so that u · h ≈ 1 on all rows (`llamacart.export.constant`); the rank stays K. A norm
behind the down projection changes nothing, because both act before it. Where W − E_S is held in
factors U V of rank r, A is V with the row u below it, and B is α D_S [U b]: rank r + 1.

Axes: D FFN width, E width of the residual stream, K active neurons, R rank.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from llamacart.errors import InputError
from llamacart.matrix import FactoredMatrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llamacart.cartridge import Cartridge, Fingerprint, LayerMap

    Floats = NDArray[np.float32]


@dataclass(frozen=True)
class LowRank:
    """What an adapter adds to one layer's down projection: B A h.

    Attributes:
        layer: Index in 0..L-1.
        a: A, float32 [R, D].
        b: B, float32 [E, R]; α is in it.
    """

    layer: int
    a: Floats
    b: Floats

    @property
    def rank(self) -> int:
        """R."""
        return len(self.a)

    def step(self, h: Floats) -> Floats:
        """What is added to the down projection's output for rows h [N, D], [N, E]."""
        return np.asarray((h @ self.a.T) @ self.b.T, np.float32)


@dataclass(frozen=True)
class Adapter:
    """A cartridge at one α as LoRA matrices.

    Attributes:
        name: The cartridge's id.
        content_hash: The cartridge's.
        alpha: α, which is in the matrices: an engine's scale of 1 means it.
        fingerprint: The model's.
        layers: Ascending; layers without an effect are absent.
    """

    name: str
    content_hash: str
    alpha: float
    fingerprint: Fingerprint
    layers: tuple[LowRank, ...]

    @property
    def rank(self) -> int:
        """The largest R of its layers; 0 without layers."""
        return max((layer.rank for layer in self.layers), default=0)


def check_travels(cartridge: Cartridge, *, everywhere: bool = False) -> None:
    """Refuse a cartridge that waits for texts to be said: no adapter format can hold that.

    Args:
        cartridge: It.
        everywhere: Take it all the same; the adapter then acts on all rows.

    Raises:
        InputError: It names the first of the texts.
    """
    if cartridge.when and not everywhere:
        others = f" and {len(cartridge.when) - 1} more" if len(cartridge.when) > 1 else ""
        raise InputError(
            f"cartridge {cartridge.name!r} waits for {cartridge.when[0]!r}{others} to be said; an "
            "adapter acts on all rows; --everywhere exports it as if nothing were waited for"
        )


def exact_step(layer_map: LayerMap, columns: Floats, alpha: float, h: Floats) -> Floats:
    """What the cartridge adds to the down projection's output for rows h [N, D], [N, E].

    Args:
        layer_map: One layer's map.
        columns: D_S [E, K].
        alpha: α.
        h: Gated products before they are steered.
    """
    step = h @ layer_map.dense_delta(h.shape[1]).T + layer_map.bias
    return np.asarray(np.float32(alpha) * step @ columns.T, np.float32)


def low_rank(
    layer_map: LayerMap, columns: Floats, alpha: float, constant: Floats | None
) -> LowRank | None:
    """One layer's matrices; None where they are zero.

    A mean shift (W = E_S) has rank 1: A = uᵀ, B = α D_S b.

    Args:
        layer_map: One layer's map.
        columns: D_S [E, K].
        alpha: α.
        constant: u [D]; None leaves the bias out.
    """
    if layer_map.delta is None:
        if constant is None or not layer_map.bias.any():
            return None
        shift = np.float32(alpha) * (columns @ layer_map.bias)
        return LowRank(layer_map.layer, constant[None].astype(np.float32), shift[:, None])
    delta = layer_map.delta
    if isinstance(delta, FactoredMatrix) and own_rank(layer_map) < len(layer_map.neurons):
        a, left = delta.right.dequantize(), delta.left.astype(np.float32)
        if constant is not None and layer_map.bias.any():
            a = np.vstack([a, constant[None].astype(np.float32)])
            left = np.column_stack([left, layer_map.bias])
        return LowRank(layer_map.layer, a, np.float32(alpha) * (columns @ left))
    a = delta.dequantize()
    if constant is not None:
        a += np.outer(layer_map.bias, constant)
    return LowRank(layer_map.layer, a, np.float32(alpha) * columns)


def own_rank(layer_map: LayerMap) -> int:
    """The least rank at which `low_rank` loses nothing of a layer, its bias included."""
    delta, n_active = layer_map.delta, len(layer_map.neurons)
    if delta is None:
        return 1
    if isinstance(delta, FactoredMatrix):
        return min(n_active, delta.rank + bool(layer_map.bias.any()))
    return n_active


def cut(layer: LowRank, rank: int, rows: Floats | None = None) -> tuple[LowRank, float]:
    """The nearest adapter of a lower rank, and the share of the step that it loses.

    On rows X the nearest is the one whose steps on X differ least: B A projected on
    the R directions in which its steps are longest (Eckart and Young, 1936, for the steps).

    Args:
        layer: Matrices of rank K.
        rank: R; a layer of that rank or a lower one comes back as it is.
        rows: X [N, D]; None means the identity, which is the plain SVD of B A.

    Returns:
        The matrices, and ‖lost steps‖ / ‖steps‖ on those rows, 0 to 1.
    """
    if layer.rank <= rank:
        return layer, 0.0
    a, b = layer.a.astype(np.float64), layer.b.astype(np.float64)
    basis, inner = np.linalg.qr(b)
    inputs = a if rows is None else (layer.a @ rows.T).astype(np.float64)
    covariance = inputs @ inputs.T
    lengths, axes = np.linalg.eigh(inner @ covariance @ inner.T)
    lengths = lengths.clip(0)
    kept = axes[:, ::-1][:, :rank]
    total = float(lengths.sum())
    lost = float(lengths[: len(lengths) - rank].sum()) / total if total else 0.0
    narrow = LowRank(
        layer.layer,
        np.asarray(kept.T @ inner @ a, np.float32),
        np.asarray(basis @ kept, np.float32),
    )
    return narrow, float(np.sqrt(lost))


def pad(layer: LowRank, rank: int) -> LowRank:
    """The same adapter at a higher rank: rows and columns of zeros."""
    more = rank - layer.rank
    if more <= 0:
        return layer
    return replace(
        layer,
        a=np.pad(layer.a, ((0, more), (0, 0))),
        b=np.pad(layer.b, ((0, 0), (0, more))),
    )
