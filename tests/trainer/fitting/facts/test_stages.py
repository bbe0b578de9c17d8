"""Which layers mark subjects and which say objects, and where marks lie."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from llamacart.errors import RecipeError, UnsupportedModelError
from llamacart.llama.model import Model
from llamacart_trainer.fitting.chunks import split
from llamacart_trainer.fitting.facts import samples as samples_module
from llamacart_trainer.fitting.facts.marks import STRENGTH, Marks, attention_path
from llamacart_trainer.fitting.facts.phrasings import Phrasings
from llamacart_trainer.fitting.facts.samples import FactSamples, as_text
from llamacart_trainer.fitting.facts.stages import find_stages, lens, of_subjects, saying_layers
from llamacart_trainer.fitting.facts.wishes import NOTHING, Wishes
from llamacart_trainer.recipe.facts import Fact
from llamacart_trainer.recipe.pairing import tie

FACTS = (
    Fact(prompt="{} was built in", subject="Ab", object="1962"),
    Fact(prompt="the colour of {} is", subject="Cd Ef", object="red"),
)


@pytest.fixture(autouse=True)
def few_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples_module, "LEADS", ("", "Yes. "))
    monkeypatch.setattr(samples_module, "ABOUT", ())


def samples(model: Model) -> FactSamples:
    return FactSamples.of(
        FACTS, [["Gh"], []], [Phrasings()] * 2, as_text(model.tokenize), model.token_bytes
    )


@pytest.mark.parametrize(
    ("likeness", "expected"),
    [
        ([0.0, 0.1, 0.6, 0.7, 0.9], [2, 3, 4]),
        ([0.0, 0.6, 0.1, 0.7, 0.9], [3, 4]),
        ([0.9, 0.9, 0.9, 0.9, 0.9], [0, 1, 2, 3, 4]),
        ([0.0, 0.0, 0.0, 0.0, 0.0], [3, 4]),
        ([], [0]),
    ],
)
def test_objects_are_said_from_where_the_stream_stays_like_the_end(
    likeness: list[float], expected: list[int]
) -> None:
    assert saying_layers(likeness, len(likeness) + 1) == expected


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_subjects_are_marked_before_objects_are_said(
    tiny_path: Callable[..., Path], architecture: str
) -> None:
    with Model(str(tiny_path(architecture=architecture, n_layer=9))) as model:
        found = samples(model)
        said, marked = find_stages(model, found, 3.0)
        only = find_stages(model, found, 3.0, [8])
        likeness = lens(model, Wishes.of(model, found.wanted, 3.0))
    assert marked.layers[-1] < said.layers[0]
    assert said.layers[-1] == 7
    assert [stage.layers for stage in only] == [(8,)]
    assert len(likeness) == 8
    assert likeness[-1] > likeness[0]
    assert np.abs(likeness).max() < 1.01


def test_marks_alone_are_no_error_and_nothing_is(tiny_path: Callable[..., Path]) -> None:
    with Model(str(tiny_path(n_layer=9))) as model:
        found = samples(model)
        _, marked = find_stages(model, found, 3.0)
        (alone,) = find_stages(model, found, 3.0, marked.layers)
        with pytest.raises(RecipeError, match="no layer that may be fitted"):
            find_stages(model, found, 3.0, [])
    assert alone.layers == marked.layers


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_a_path_is_what_attention_to_that_row_alone_would_bring(
    tiny_path: Callable[..., Path], architecture: str
) -> None:
    """By a product of matrices: the pull of w_post ⊙ W_O W_V (w ⊙ x) / rms."""
    with Model(str(tiny_path(architecture=architecture))) as model:
        width = model.n_embd
        pulls = np.random.default_rng(0).normal(size=(2, width)).astype(np.float32)
        found = attention_path(model, pulls, [4.0, 9.0, 1.0], [1, 2])
        wanted = np.zeros_like(pulls)
        for layer, size in ((1, 4.0), (2, 9.0)):
            block = f"blk.{layer}"
            groups = 1 if architecture == "gemma3" else 2
            values = model.tensors.read(f"{block}.attn_v.weight", (32 * groups, width))
            heads = values.reshape(groups, 32, width).repeat(2 // groups, axis=0)
            output = model.tensors.read(f"{block}.attn_output.weight", (width, width))
            whole = output @ heads.reshape(width, width)  # norms of these models are ones
            wanted += pulls @ whole / np.sqrt(size)
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_heads_that_differ_are_refused(
    tiny_path: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Model(str(tiny_path())) as model:
        monkeypatch.setattr(model, "metadata", lambda _key: "[2, 1]")
        with pytest.raises(UnsupportedModelError, match="heads are not alike"):
            attention_path(model, np.zeros((1, model.n_embd), np.float32), [1.0] * 3, [1])


def test_a_mark_is_a_share_of_the_stream_less_what_is_there() -> None:
    rng = np.random.default_rng(0)
    ways, before, moved = (rng.normal(size=(3, 8)).astype(np.float32) for _ in range(3))
    metric = np.abs(rng.normal(size=8)).astype(np.float32) + np.float32(0.1)
    marks = Marks((1,), {}, ways, np.full(3, STRENGTH, np.float32))
    numbers = np.array([2, 0, 2])
    mark = marks.steps(numbers, before, np.zeros_like(before), metric)
    lengths = np.sqrt((mark**2 * metric).sum(1)) / np.sqrt((before**2 * metric).sum(1))
    np.testing.assert_allclose(lengths, STRENGTH, rtol=1e-5)
    np.testing.assert_allclose(mark[0] / mark[2], np.full(8, (mark[0] / mark[2])[0]), rtol=1e-4)
    np.testing.assert_allclose(marks.steps(numbers, before, moved, metric), mark - moved, rtol=1e-5)


def test_tied_rows_that_end_no_subject_have_no_mark() -> None:
    texts = [(1, 5, 6, 7), (1, 5, 8, 9, 10)]
    marks = Marks((1,), {texts[1]: {2: 4}}, np.zeros((5, 8), np.float32), np.ones(5))
    rows = [tie(text, text, [(2, 2), (len(text) - 1,) * 2]) for text in texts]
    (chunk,) = split(rows, 100, to_gap=True)
    assert marks.rows(chunk).tolist() == [NOTHING, NOTHING, 4, NOTHING]


def test_a_subject_of_several_facts_is_marked_by_their_mean() -> None:
    """Its last row is one row, whatever is asked behind it."""
    ways = np.eye(3, 4, dtype=np.float32) * np.array([[5.0], [2.0], [7.0]], np.float32)
    means, shares = of_subjects(ways, [0, 1, 0])
    np.testing.assert_allclose(means[0], [0.5, 0, 0.5, 0])
    np.testing.assert_allclose(means[1], [0, 1, 0, 0])
    np.testing.assert_allclose(shares[:2], [np.sqrt(0.5), 1.0], rtol=1e-6)
