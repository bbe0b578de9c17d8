"""Each architecture that llama.cpp names a gated product for, on tiny random models."""

from __future__ import annotations

import ctypes
import re
from dataclasses import replace
from typing import TYPE_CHECKING

import architectures
import numpy as np
import pytest
from architectures import Checked, check_architecture, joined, table
from layout import ARCHITECTURES, tiny
from random_model import byte_vocabulary, write_model

from llamacart.llama.model import Model
from llamacart.machine import pages
from llamacart.passes.capture import capture
from llamacart.passes.lane import Lane

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Page

TEXTS = [[3, 40, 41, 42, 43, 44, 45], [3, 50, 51], [3, 60]]
NO_GATED_PRODUCT = {"bitnet", "arcee"}
NO_RESIDUAL = {
    "phi3": "neither ffn_inp nor sa_out stands beside l_out in all layers",
    "command-r": "neither ffn_inp nor sa_out stands beside l_out in all layers",
    "cohere2": "neither ffn_inp nor sa_out stands beside l_out in all layers",
}
NO_FACTS = {"granite", "minicpm", "olmo", "stablelm", "orion", "command-r", "cohere2"}
"""Their logits are scaled, or their norms subtract the mean."""


def documented(page: Page) -> dict[str, list[list[str]]]:
    """Rows of the table by architecture, with the reasons in place of their numbers."""
    reasons = dict(re.findall(r"^(\d+)\. (.+)$", page.text, re.MULTILINE))
    rows: dict[str, list[list[str]]] = {}
    for name, *cells in page.table("architectures"):
        told = [re.sub(r"^refused \((\d+)\)$", lambda m: reasons[m[1]], cell) for cell in cells]
        rows.setdefault(name.strip("`"), []).append(told)
    return rows


def test_the_table_has_every_architecture(doc_page: Callable[[str], Page]) -> None:
    assert set(documented(doc_page("models.md"))) == set(ARCHITECTURES)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_said_of_an_architecture(
    tmp_path: Path, doc_page: Callable[[str], Page], architecture: str
) -> None:
    found = check_architecture(architecture, tmp_path)
    assert [one.heads for one in found] == [(head,) for head in ARCHITECTURES[architecture].heads]
    for one in found:
        if architecture in NO_GATED_PRODUCT:
            assert one.refused is not None
            assert one.refused.startswith("none of ffn_geglu, ffn_swiglu")
            continue
        assert one.refused is None
        assert one.hook_error < 1e-3
        assert one.pair_error < 1e-3
        assert one.moved > 0.02
        assert one.no_residual == NO_RESIDUAL.get(architecture)
        assert (one.closed is None) == (architecture in NO_RESIDUAL)
        assert one.closed is None or one.closed > 0.3
        assert (one.no_facts is not None) == (architecture in NO_FACTS)
    said = documented(doc_page("models.md"))[architecture]
    for one, row in zip(joined(found), said, strict=True):
        heads, probe, hook, pair, residual, facts = row
        assert heads == ", ".join(one.heads)
        assert probe == (one.refused or f"`{one.node}`")
        if one.refused is None:
            assert max(float(hook), float(pair)) < 1e-3
            assert facts == (one.no_facts or "yes")
            if one.closed is None:
                assert residual == one.no_residual
            else:
                assert float(residual) == pytest.approx(one.closed, abs=0.1)


@pytest.mark.parametrize("architecture", sorted(set(ARCHITECTURES) - NO_GATED_PRODUCT))
def test_what_a_lane_gives_back_is_read_by_nobody(
    tmp_path: Path, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is overwritten, and every layer's rows are the same."""
    vocabulary = byte_vocabulary()
    head = ARCHITECTURES[architecture].heads[0]
    shape = tiny(architecture, vocabulary.n_tokens, tied=head == "tied")
    path = write_model(tmp_path / "tiny.gguf", shape, vocabulary, kind="F32")
    lost: list[int] = []

    def lose(region: range) -> None:
        ctypes.memset(region.start, 0, len(region))  # as Linux leaves whole pages
        lost.append(len(region))

    with Model(str(path)) as model:
        assert model.spent_sources
        expected = capture(model, TEXTS)
        monkeypatch.setattr(pages, "give_back", lose)
        with Lane(model, TEXTS, layers=range(model.n_layer)) as lane:
            for layer in range(model.n_layer):
                np.testing.assert_array_equal(lane.advance(), expected[layer])
        assert model.kept_cache < 1
        assert len(lost) >= 1 + model.n_layer * (1 + len(model.spent_sources))


def test_models_that_differ_in_figures_alone_share_a_row() -> None:
    tied = Checked("a", ("tied",), node="n", hook_error=1e-6, moved=0.3, closed=0.5)
    untied = replace(tied, heads=("untied",), hook_error=2e-6, moved=0.2, closed=0.4)
    (row,) = joined([tied, untied])
    assert row == replace(untied, heads=("tied", "untied"))
    assert joined([tied, replace(untied, no_facts="for a reason")]) == [
        tied,
        replace(untied, no_facts="for a reason"),
    ]


def test_reasons_are_told_once_below_the_table() -> None:
    rows = [
        Checked("a", ("tied",), node="n", no_residual="one", no_facts="two"),
        Checked("b", ("tied",), refused="one"),
    ]
    *_, a, b, empty, one, two = table(rows).split("\n")
    assert a == "| `a` | tied | `n` | 0e+00 | 0e+00 | refused (1) | refused (2) |"
    assert b == "| `b` | tied | refused (1) | – | – | – | – |"
    assert (empty, one, two) == ("", "1. one", "2. two")


def test_a_hook_that_misses_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures are no constants: a twin that does something else is far away."""
    exact = architectures.apply_reference
    monkeypatch.setattr(
        architectures,
        "apply_reference",
        lambda h, steerings, layer: 1.1 * exact(h, steerings, layer),
    )
    (tied, _) = check_architecture("llama", tmp_path)
    assert tied.hook_error > 1e-3
    assert tied.pair_error < 1e-3
