"""What is known of each architecture, from random models of its form: one row of a table each.

For every architecture in `layout.py`, with a tied head and with one of its own where both exist:

- probe: the node that is steered, once the model has loaded and its rows were where they should be;
  or why it is refused.
- hook: logits of two interleaved sequences, each under another cartridge, by the compiled hook and
  by its NumPy twin: largest difference, as a share of the largest logit.
- two sequences: the same logits with each sequence in a batch of its own.
- residual target: share of the gap that a fit on eight pairs of words closes, mean over its layers;
  or why it is refused.
- facts: whether the model reads tokens off its residual stream as a recipe of facts needs it.

Usage: architectures.py [--only NAME …]
"""

from __future__ import annotations

import argparse
import re
import statistics
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from layout import ARCHITECTURES, tiny
from random_cartridge import random_cartridge
from random_model import byte_vocabulary, write_model

from llamacart.errors import UnsupportedModelError
from llamacart.hook.steering_hook import SteeringHook
from llamacart.llama.context import Context
from llamacart.llama.model import Model
from llamacart.llama.tap import Tap
from llamacart.values.batch import Batch
from llamacart.values.steering import UNSTEERED, Dose, apply_reference
from llamacart_trainer.fitting.facts.head import Head, read_ends
from llamacart_trainer.fitting.training import train
from llamacart_trainer.recipe.recipe import Recipe, Task, TextPair

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from llamacart.values.steering import Steering

    Row = tuple[int, int, int]
    """(token, position, sequence)."""

N_ACTIVE = 8
LENGTHS = (7, 5)
UBATCH = 5
WORDS = ("red", "old", "big", "new", "wet", "sad", "odd", "raw")
HEAD = ("architecture", "head", "probe", "hook", "two sequences", "residual target", "facts")


@dataclass(frozen=True)
class Checked:
    """What one model is known by.

    Attributes:
        architecture: Its name.
        heads: `tied`, `untied`.
        refused: Why it cannot be steered; None where it can. The rest is then empty.
        node: The node that is steered.
        hook_error: Largest difference from the NumPy twin, as a share of the largest logit.
        pair_error: Largest difference from each sequence alone, likewise.
        moved: Largest difference from the unsteered model, likewise.
        closed: Mean share of the gap that a fit to the residual stream closes.
        no_residual: Why it cannot be fitted to its residual stream; None where it can.
        no_facts: Why it cannot be taught facts; None where it can.
    """

    architecture: str
    heads: tuple[str, ...]
    refused: str | None = None
    node: str = ""
    hook_error: float = 0.0
    pair_error: float = 0.0
    moved: float = 0.0
    closed: float | None = None
    no_residual: str | None = None
    no_facts: str | None = None

    def cells(self, number: Callable[[str], int]) -> tuple[str, ...]:
        """One row of the table.

        Args:
            number: Of a reason, in the list below the table.
        """
        name, heads = f"`{self.architecture}`", ", ".join(self.heads)
        if self.refused is not None:
            return name, heads, f"refused ({number(self.refused)})", "–", "–", "–", "–"
        return (
            name,
            heads,
            f"`{self.node}`",
            f"{self.hook_error:.0e}",
            f"{self.pair_error:.0e}",
            f"refused ({number(self.no_residual)})"
            if self.no_residual is not None
            else f"{self.closed:.2f}",
            f"refused ({number(self.no_facts)})" if self.no_facts is not None else "yes",
        )


def check(path: Path, architecture: str, head: str) -> Checked:
    """Look at one model.

    Raises:
        ModelError: llama.cpp cannot load it.
    """
    try:
        model = Model(str(path))
    except UnsupportedModelError as error:
        return Checked(architecture, (head,), refused=_reason(error))
    with model:
        hook_error, pair_error, moved = _errors(model)
        found = Checked(
            architecture,
            (head,),
            node=model.site_node,
            hook_error=hook_error,
            pair_error=pair_error,
            moved=moved,
        )
        try:
            found = replace(found, closed=_closed(model))
        except UnsupportedModelError as error:
            found = replace(found, no_residual=_reason(error))
        try:
            _read_off(model)
        except UnsupportedModelError as error:
            found = replace(found, no_facts=_reason(error))
        return found


def check_architecture(architecture: str, folder: Path) -> list[Checked]:
    """One for each head that it can have, from tiny models written to a folder."""
    vocabulary = byte_vocabulary()
    found = []
    for head in ARCHITECTURES[architecture].heads:
        shape = tiny(architecture, vocabulary.n_tokens, tied=head == "tied")
        path = write_model(folder / f"{architecture}-{head}.gguf", shape, vocabulary, kind="F32")
        found.append(check(path, architecture, head))
    return found


def joined(found: Sequence[Checked]) -> list[Checked]:
    """One for what differs in no more than its figures; the largest errors count."""
    rows: list[Checked] = []
    for one in found:
        for place, row in enumerate(rows):
            if (row.refused, row.no_residual, row.no_facts) == (
                one.refused, one.no_residual, one.no_facts,
            ):  # fmt: skip
                rows[place] = _worst(row, one)
                break
        else:
            rows.append(one)
    return rows


def _worst(a: Checked, b: Checked) -> Checked:
    closed = None if a.closed is None or b.closed is None else min(a.closed, b.closed)
    return replace(
        a,
        heads=(*a.heads, *b.heads),
        hook_error=max(a.hook_error, b.hook_error),
        pair_error=max(a.pair_error, b.pair_error),
        moved=min(a.moved, b.moved),
        closed=closed,
    )


def _reason(error: UnsupportedModelError) -> str:
    """A refusal without the architecture's name, and with any layer in place of the one found."""
    return re.sub(r"layer \d+", "a layer", error.message.split(": ", 1)[-1])


# --- steering ----------------------------------------------------------------------------------


def _errors(model: Model) -> tuple[float, float, float]:
    """`hook_error`, `pair_error` and `moved`."""
    steerings: list[Steering] = [
        (Dose(random_cartridge(model, seed, neurons=N_ACTIVE, spread=0.2), 0.8),) for seed in (1, 2)
    ]
    rows = [
        (5 + 31 * sequence + 7 * position, position, sequence)
        for position in range(max(LENGTHS))
        for sequence in (0, 1)
        if position < LENGTHS[sequence]
    ]
    together = _logits(model, rows, steerings)
    twin = _logits(model, rows, steerings, twin=True)
    plain = _logits(model, rows, [UNSTEERED, UNSTEERED])
    alone = np.empty_like(together)
    for sequence in (0, 1):
        own = [i for i, row in enumerate(rows) if row[2] == sequence]
        alone[own] = _logits(model, [rows[i] for i in own], steerings)
    size = float(np.abs(twin).max())
    hook_error, pair_error, moved = (
        float(np.abs(together - other).max()) / size for other in (twin, alone, plain)
    )
    return hook_error, pair_error, moved


def _logits(
    model: Model, rows: Sequence[Row], steerings: Sequence[Steering], *, twin: bool = False
) -> NDArray[np.float32]:
    """Logits [rows, V] of one batch; what acts on a row is its sequence's."""
    acting = [steerings[sequence] for _, _, sequence in rows]

    def visit(layer: int, seen: NDArray[np.int64], h: NDArray[np.float32]) -> bool:
        h[:] = apply_reference(h, [acting[i] for i in seen], layer)
        return True

    hook: Tap | SteeringHook = Tap(model, visit)
    if not twin:
        hook = SteeringHook(model, max_rows=len(rows))
        for steering in steerings:
            for dose in steering:
                hook.load(dose.cartridge)
        hook.set_rows(acting)
    with Context(
        model, n_ctx=64, n_batch=32, n_ubatch=UBATCH, n_seq_max=2, n_threads=1, hook=hook
    ) as context:
        tokens, positions, sequences = (list(column) for column in zip(*rows, strict=True))
        context.decode(Batch(tokens, positions, sequences, [True] * len(rows)))
        return np.array([context.logits(i) for i in range(len(rows))])


# --- fitting -----------------------------------------------------------------------------------


def _closed(model: Model) -> float:
    """Mean share of the gap that a fit to the residual stream closes."""
    recipe = Recipe.model_validate(
        {
            "name": "words",
            "target": "residual",
            "pairing": ["suffix"],
            "penalty": 0.01,
            "neurons": 48,
            "layers": [0, -1],
        }
    )
    pairs = tuple(
        TextPair(f"the {word} thing {i}", f"say it well: the {word} thing {i}")
        for i, word in enumerate(WORDS)
    )
    result = train(Task(recipe, pairs, ("as it is, so it was",)), model, n_threads=1)
    return statistics.fmean(report.closed for report in result.layers)


def _read_off(model: Model) -> None:
    """Refuse a model whose output is another than `Head`."""
    texts = [model.tokenize(f"the {word} thing is") for word in WORDS]
    ends = read_ends(model, texts, n_threads=1)
    Head.of(model, ends.likely).check(model, ends)


def table(found: Sequence[Checked]) -> str:
    """As it stands in the documentation: the rows, and what stands behind a number in them."""
    reasons: list[str] = []

    def number(reason: str) -> int:
        if reason not in reasons:
            reasons.append(reason)
        return reasons.index(reason) + 1

    rows = [one.cells(number) for one in found]
    lines = [f"| {' | '.join(HEAD)} |", f"|{'---|' * len(HEAD)}"]
    lines += [f"| {' | '.join(cells)} |" for cells in rows]
    return "\n".join([*lines, "", *(f"{i}. {why}" for i, why in enumerate(reasons, 1))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = [
            row
            for architecture in options.only
            for row in joined(check_architecture(architecture, Path(folder)))
        ]
    print(table(found))


if __name__ == "__main__":
    main()
