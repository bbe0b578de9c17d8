"""From a cartridge to the matrices of an adapter, and what each layer of them gets wrong.

Axes: N rows, D FFN width, E width of the residual stream, K active neurons.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from llamacart.errors import InputError
from llamacart.export.adapter import Adapter, cut, exact_step, low_rank, pad
from llamacart.export.constant import find_constant
from llamacart.export.rows import continued, gather, own_openings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamacart.export.adapter import LowRank
    from llamacart.llama.model import Model
    from llamacart.values.steering import Dose

N_FIT, N_HELD = 60, 30
"""Texts to fit u on, and others to measure on."""
OPENING_TOKENS, CONTINUED_TOKENS = 24, 24
MAX_OPENING = 256
"""Tokens of a given text that are used."""
MAX_ROWS = 8192
"""Tokens of given texts that are used, those to fit on and those to measure on each. A file of
more has every second, third … of its texts used."""


@dataclass(frozen=True)
class Texts:
    """What an export is fitted on and measured on.

    Attributes:
        fit: Openings with what the steered model says next, token ids.
        held: The same of other openings.
        openings: Those of `held` alone.
    """

    fit: list[list[int]]
    held: list[list[int]]
    openings: list[list[int]]


@dataclass(frozen=True)
class LayerResidual:
    """What one layer's matrices get wrong, on rows that nothing was fitted on.

    Attributes:
        layer: Index.
        rank: R.
        bias: Root mean square of 1 − u · h: the share of the bias that a row gets wrong; 1 where
            the bias is left out, 0 where there is none.
        cut: ‖lost steps‖ / ‖steps‖ of the cut to R, on the rows of the fit.
        step: ‖adapter's steps − cartridge's steps‖ / ‖cartridge's steps‖.
    """

    layer: int
    rank: int
    bias: float
    cut: float
    step: float


def choose_texts(
    model: Model,
    dose: Dose,
    *,
    given: Sequence[str] | None = None,
    prompts: Sequence[str] | None = None,
    n_threads: int | None = None,
) -> Texts:
    """Texts of the model as the cartridge steers it.

    Args:
        model: The model.
        dose: The cartridge and its α.
        given: Openings; None has the unsteered model draw them.
        prompts: Openings to measure on; None takes every third of the others.
        n_threads: Threads for compute.

    Raises:
        InputError: There are too few openings.
    """
    if given is None:
        n = N_FIT + (0 if prompts is not None else N_HELD)
        openings = own_openings(model, n, OPENING_TOKENS, n_threads=n_threads)
    else:
        openings = _tokens(model, given)
    if prompts is None:
        held = openings[2::3]
        openings = [own for number, own in enumerate(openings) if number % 3 != 2]
    else:
        held = _tokens(model, prompts)
    if not openings or not held:
        raise InputError(f"{len(openings) + len(held)} texts were given; at least 3 are needed")
    both = continued(model, [*openings, *held], CONTINUED_TOKENS, dose, n_threads=n_threads)
    return Texts(both[: len(openings)], both[len(openings) :], held)


def make_adapter(
    model: Model,
    dose: Dose,
    texts: Texts,
    *,
    rank: int | None = None,
    uniform: bool = False,
    fold: bool = True,
    max_memory: int | None = None,
    n_threads: int | None = None,
) -> tuple[Adapter, list[LayerResidual]]:
    """The cartridge as an adapter, and what each of its layers gets wrong.

    Args:
        model: The model.
        dose: The cartridge and its α.
        texts: Rows to fold the bias on, and to measure on.
        rank: Cut all layers to this rank; None keeps each layer's own.
        uniform: Pad all layers to `rank`, or to the largest of their own.
        fold: Fold the bias; otherwise it is left out.
        max_memory: Bytes to hold rows in; see `gather`.
        n_threads: Threads for compute.

    Raises:
        InputError: The cartridge would have no effect as an adapter, or the rows of one layer
            need more than `max_memory`.
    """
    cartridge = dose.cartridge
    layers: list[LowRank] = []
    residuals: list[LayerResidual] = []
    found = gather(
        model,
        cartridge,
        dose.alpha,
        (texts.fit, texts.held),
        max_memory=max_memory,
        n_threads=n_threads,
    )
    for layer_map, rows in found:
        name = f"blk.{layer_map.layer}.ffn_down.weight"
        down = model.tensors.read(name, (model.n_embd, model.n_ff))
        columns = np.ascontiguousarray(down[:, layer_map.neurons])
        constant = find_constant(rows) if fold and layer_map.bias.any() else None
        whole = low_rank(
            layer_map, columns, dose.alpha, None if constant is None else constant.direction
        )
        if whole is None:
            continue
        own, lost = cut(whole, whole.rank if rank is None else rank, rows.fit)
        layers.append(own)
        exact = exact_step(layer_map, columns, dose.alpha, rows.held)
        wrong = float(np.linalg.norm(own.step(rows.held) - exact))
        share = constant.error if constant is not None else float(layer_map.bias.any())
        size = float(np.linalg.norm(exact)) or 1.0
        residuals.append(LayerResidual(layer_map.layer, own.rank, share, lost, wrong / size))
    if not layers:
        raise InputError(f"cartridge {cartridge.name!r} has no effect without its bias")
    if uniform:
        most = max(layer.rank for layer in layers) if rank is None else rank
        layers = [pad(layer, most) for layer in layers]
    adapter = Adapter(
        cartridge.name,
        cartridge.content_hash,
        dose.alpha,
        replace(cartridge.fingerprint, name=model.fingerprint.name),
        tuple(layers),
    )
    return adapter, residuals


def _tokens(model: Model, texts: Sequence[str]) -> list[list[int]]:
    found = [model.tokenize(text)[:MAX_OPENING] for text in texts]
    found = [tokens for tokens in found if tokens]
    n_rows = sum(len(tokens) + CONTINUED_TOKENS for tokens in found)
    return found[:: math.ceil(n_rows / MAX_ROWS) or 1]
