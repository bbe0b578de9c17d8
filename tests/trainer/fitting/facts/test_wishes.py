"""What last rows are to say: leads and pulls, against the model and by differences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llamacart.errors import UnsupportedModelError
from llamacart.llama.model import Model
from llamacart.passes.scoring import visit_logits
from llamacart_trainer.fitting.chunks import split
from llamacart_trainer.fitting.facts.head import Head, read_ends
from llamacart_trainer.fitting.facts.wishes import NOTHING, Wishes, after
from llamacart_trainer.recipe.pairing import tie

TEXTS = ((1, 40, 41, 42), (1, 50), (1, 40, 41, 60, 61, 62))


def wanted() -> dict[tuple[int, ...], int]:
    return {text: 100 + number for number, text in enumerate(TEXTS)}


def lead(wishes: Wishes, numbers: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """By the definition, without a margin."""
    z = wishes.head.logits(wishes.ends[numbers] + moved, wishes.tokens[numbers]).astype(np.float64)
    rivals = np.where(wishes.rival[numbers], z, -np.inf)
    return np.asarray(z[:, 0] - np.log(np.exp(rivals).sum(axis=1)))


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
class TestOfAModel:
    def test_its_streams_are_read_as_it_reads_them(
        self, tiny_path: Callable[..., Path], architecture: str
    ) -> None:
        logits: dict[int, np.ndarray] = {}
        with Model(str(tiny_path(architecture=architecture))) as model:
            ends = read_ends(model, TEXTS)
            visit_logits(
                model,
                TEXTS,
                [len(text) - 1 for text in TEXTS],
                lambda text, _row, z: logits.update({text: z.copy()}),
            )
            every = np.tile(np.arange(model.n_vocab), (len(TEXTS), 1))
            head = Head.of(model, every)
            own = head.logits(ends.streams, every)
            head.check(model, ends)
            with pytest.raises(UnsupportedModelError, match="cannot be taught facts"):
                replace(head, norm=-head.norm).check(model, ends)
        for text, z in logits.items():
            np.testing.assert_allclose(own[text], z, atol=1e-3)
            best = set(np.argsort(-z)[: ends.likely.shape[1]].tolist())
            assert set(ends.likely[text].tolist()) == best

    def test_pulls_are_the_gradient_of_leads_at_a_held_length(
        self, tiny_path: Callable[..., Path], architecture: str
    ) -> None:
        with Model(str(tiny_path(architecture=architecture))) as model:
            wishes = Wishes.of(model, wanted(), 50.0)
        numbers = np.array([2, 0])
        still = np.zeros_like(wishes.ends[numbers])
        nats, pull = wishes.missing(numbers, still)
        np.testing.assert_allclose(nats, 50.0 - lead(wishes, numbers, still), rtol=1e-4)
        rng = np.random.default_rng(0)
        for _ in range(5):
            way = rng.normal(size=still.shape).astype(np.float32)
            ends = wishes.ends[numbers]
            way -= ends * ((way * ends).sum(1) / (ends**2).sum(1))[:, None]  # along no length
            small = np.float32(1e-2) * way
            found = (lead(wishes, numbers, small) - lead(wishes, numbers, -small)) / 2
            np.testing.assert_allclose(found, (pull * small).sum(1), atol=2e-3)


def test_a_cap_bends_logits_and_pulls(tiny_path: Callable[..., Path]) -> None:
    with Model(str(tiny_path())) as model:
        plain = Wishes.of(model, wanted(), 50.0)
    capped = replace(plain, head=replace(plain.head, cap=0.5))
    numbers = np.arange(3)
    z = capped.head.logits(capped.ends, capped.tokens)
    assert np.abs(z).max() <= 0.5
    still = np.zeros_like(capped.ends)
    _, pull = capped.missing(numbers, still)
    step = np.float32(1e-2) * pull / np.linalg.norm(pull, axis=1, keepdims=True)
    step -= capped.ends * ((step * capped.ends).sum(1) / (capped.ends**2).sum(1))[:, None]
    found = (lead(capped, numbers, step) - lead(capped, numbers, -step)) / 2
    np.testing.assert_allclose(found, (pull * step).sum(1), rtol=2e-2, atol=1e-4)


def test_nothing_is_missing_beyond_the_margin(tiny_path: Callable[..., Path]) -> None:
    with Model(str(tiny_path())) as model:
        wishes = Wishes.of(model, wanted(), 1.0)
    numbers = np.arange(3)
    far = 1e3 * wishes.head.of_tokens(wishes.tokens[:, 0])
    assert not wishes.missing(numbers, far)[0].any()
    assert (wishes.missing(numbers, -far)[0] > 1.0).all()


def test_an_object_is_no_rival_of_itself(tiny_path: Callable[..., Path]) -> None:
    with Model(str(tiny_path())) as model:
        likeliest = int(read_ends(model, TEXTS[:1]).likely[0, 0])
        wishes = Wishes.of(model, {TEXTS[0]: likeliest}, 1.0)
    assert wishes.rival.sum() == wishes.rival.size - 2  # itself, and itself among the likely


def test_each_tied_row_finds_what_is_wished_of_it(tiny_path: Callable[..., Path]) -> None:
    with Model(str(tiny_path())) as model:
        wishes = Wishes.of(model, wanted(), 1.0)
    other = (1, 40, 41, 43, 44)
    texts = [TEXTS[2], other, TEXTS[0], TEXTS[1]]
    samples = [tie(text, text, [(len(text) - 1,) * 2]) for text in texts]
    (chunk,) = split(samples, 100, to_gap=True)
    assert wishes.rows(chunk).tolist() == [2, NOTHING, 0, 1]


def test_each_token_of_an_answer_follows_the_ones_before_it() -> None:
    assert after([((1, 2), (3, 4)), ((5,), (6,))]) == {(1, 2): 3, (1, 2, 3): 4, (5,): 6}
