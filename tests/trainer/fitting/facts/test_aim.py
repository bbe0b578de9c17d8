"""What layers that teach facts ask for, and of which rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from llamacart.llama.model import Model
from llamacart_trainer.fitting.chunks import SampleChunk, split
from llamacart_trainer.fitting.facts import samples as samples_module
from llamacart_trainer.fitting.facts.aim import ObjectAim
from llamacart_trainer.fitting.facts.marks import Marks
from llamacart_trainer.fitting.facts.phrasings import Phrasings
from llamacart_trainer.fitting.facts.samples import FactSamples, as_text
from llamacart_trainer.fitting.facts.wishes import Wishes
from llamacart_trainer.fitting.settings import FitSettings
from llamacart_trainer.fitting.sight import see
from llamacart_trainer.recipe.facts import Fact

FACT = Fact(prompt="{} was built in", subject="Ab", object="19")
SETTINGS = FitSettings(0.0, 0.1, target="object", neurons=48)


@pytest.fixture(autouse=True)
def few_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples_module, "LEADS", ("", "Yes. "))
    monkeypatch.setattr(samples_module, "ABOUT", ())


def made(model: Model) -> tuple[SampleChunk, Wishes, Marks]:
    found = FactSamples.of(
        [FACT], [["Gh", "Ij"]], [Phrasings()], as_text(model.tokenize), model.token_bytes
    )
    (chunk,) = split(found.groups[0], 1000, to_gap=True)
    ways = np.random.default_rng(0).normal(size=(1, model.n_embd)).astype(np.float32)
    wishes = Wishes.of(model, found.wanted, 30.0).by((1, 2))
    return chunk, wishes, Marks((0,), found.subjects, ways, np.ones(1, np.float32))


def parts(model: Model, chunk: SampleChunk, aim: ObjectAim) -> list[np.ndarray]:
    """What each layer asks of the tied rows where none has done anything, as √m ⊙ rms(y) d."""
    out = []
    for layer in range(3):
        source, target = (see(model, side, layer, beside=aim.beside)[0] for side in _sides(chunk))
        out.append(aim.part(layer, chunk, source, target).aims)
    return out


def _sides(chunk: SampleChunk) -> tuple[object, ...]:
    return chunk.source, chunk.target


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_each_stage_asks_its_own_rows_and_each_layer_its_part(
    tiny_path: Callable[..., Path], architecture: str
) -> None:
    with Model(str(tiny_path(architecture=architecture))) as model:
        chunk, wishes, marks = made(model)
        aim = ObjectAim(model, SETTINGS, 1.0, [0, 1, 2], chunk, [marks, wishes])
        asked = parts(model, chunk, aim)
    ends, subjects = (stage.rows(chunk) >= 0 for stage in (wishes, marks))
    assert ends.sum() == len(wishes.numbers)
    assert subjects.sum() == 2
    assert len(ends) > ends.sum() + subjects.sum()  # the rest is of other subjects
    for rows, moved in ((subjects, asked[0]), (ends, asked[1]), (ends, asked[2])):
        assert (np.abs(moved[rows]).max(axis=1) > 0).all()
        assert not moved[~rows].any()


def test_sizes_are_those_of_rows_that_are_asked(
    tiny_path: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Model(str(tiny_path())) as model:
        chunk, wishes, marks = made(model)
        seen: list[np.ndarray] = []

        def sizes(*args: object, **_: object) -> list[float]:
            seen.append(np.asarray(args[2]))
            return [1.0] * 3

        monkeypatch.setattr("llamacart_trainer.fitting.aim.residual_sizes", sizes)
        ObjectAim(model, SETTINGS, 1.0, [0, 1, 2], chunk, [marks, wishes])
        ObjectAim(
            model, SETTINGS, 1.0, [0, 1, 2], chunk, [Marks((0,), {}, marks.ways, marks.strengths)]
        )
    wanted = (wishes.rows(chunk) >= 0) | (marks.rows(chunk) >= 0)
    np.testing.assert_array_equal(seen[0], chunk.target_rows[wanted])
    np.testing.assert_array_equal(seen[1], chunk.target_rows)  # there is nothing better


def test_the_smallest_step_raises_a_lead_by_what_is_missing(
    tiny_path: Callable[..., Path],
) -> None:
    with Model(str(tiny_path())) as model:
        wishes = made(model)[1]
    numbers = np.arange(len(wishes.numbers))
    still = np.zeros_like(wishes.ends)
    metric = np.abs(np.random.default_rng(1).normal(size=still.shape[1])).astype(np.float32) + 1
    steps = wishes.steps(numbers, still, still, metric)
    nats, pull = wishes.missing(numbers, still)
    np.testing.assert_allclose((steps * pull).sum(axis=1), nats, rtol=1e-4)
    rng = np.random.default_rng(2)
    for _ in range(5):  # another step with the same rise is larger
        aside = rng.normal(size=still.shape).astype(np.float32)
        aside -= pull * ((aside * pull).sum(1) / (pull**2).sum(1))[:, None]
        size, other = ((metric * rows**2).sum(axis=1) for rows in (steps, steps + 0.1 * aside))
        assert (other > size).all()
