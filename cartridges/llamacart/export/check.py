"""How near an exported adapter comes to its cartridge, run by llama.cpp beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llamacart.passes.generate import greedy
from llamacart.passes.scoring import reference, score_texts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from llamacart.export.exporting import Texts
    from llamacart.llama.model import Model
    from llamacart.passes.control_vector import Control
    from llamacart.values.steering import Dose

REFERENCE_BUDGET = 256 * 2**20
"""Bytes of logits that are kept at once."""

GREEDY_TOKENS = 24
MAX_PROMPTS = 40


@dataclass(frozen=True)
class Agreement:
    """What an adapter does, against the cartridge.

    Attributes:
        kl: KL(cartridge ‖ adapter) in nats a token, on held-out texts.
        kl_unsteered: KL(cartridge ‖ unsteered model) there: what no adapter at all would have.
        equal: Greedy texts of `GREEDY_TOKENS` tokens that are the cartridge's to the token.
        prompts: Of so many.
        tokens: Share of the cartridge's greedy tokens that come before the first other one.
    """

    kl: float
    kl_unsteered: float
    equal: int
    prompts: int
    tokens: float


def compare(
    model: Model,
    dose: Dose,
    control: Control,
    texts: Texts,
    *,
    n_threads: int | None = None,
) -> Agreement:
    """Measure an adapter on held-out texts.

    Args:
        model: The model.
        dose: The cartridge and its α.
        control: The adapter as llama.cpp holds it.
        texts: Those of the export.
        n_threads: Threads for compute.
    """
    prompts = texts.openings[:MAX_PROMPTS]
    exact = greedy(model, prompts, GREEDY_TOKENS, steering=(dose,), n_threads=n_threads)
    own = greedy(model, prompts, GREEDY_TOKENS, control=control, n_threads=n_threads)
    kls: list[NDArray[np.float64]] = []
    offs: list[NDArray[np.float64]] = []
    for part in _parts([t for t in texts.held if len(t) > 1][:MAX_PROMPTS], model.n_vocab):
        base = reference(model, part, steering=(dose,), n_threads=n_threads)
        for kept, acting in ((kls, control), (offs, None)):
            scores = score_texts(model, part, against=base, control=acting, n_threads=n_threads)
            kept += scores.divergences or ()
    same = sum(_common(a, b) for a, b in zip(exact, own, strict=True))
    return Agreement(
        kl=float(np.concatenate(kls).mean()),
        kl_unsteered=float(np.concatenate(offs).mean()),
        equal=sum(a == b for a, b in zip(exact, own, strict=True)),
        prompts=len(prompts),
        tokens=same / max(1, sum(map(len, exact))),
    )


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Tokens that both begin with."""
    differ = (n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    return next(differ, min(len(a), len(b)))


def _parts(texts: Sequence[list[int]], n_vocab: int) -> Iterator[list[list[int]]]:
    """Texts whose reference fits `REFERENCE_BUDGET` together; at least one at a time."""
    most = max(1, REFERENCE_BUDGET // (2 * n_vocab))
    part: list[list[int]] = []
    for text in texts:
        if part and sum(map(len, part)) + len(text) > most:
            yield part
            part = []
        part.append(text)
    if part:
        yield part
