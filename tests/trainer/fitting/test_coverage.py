"""Rows that pairs give: told where a pair gives few, refused where all do."""

from __future__ import annotations

import pytest

from llamacart.errors import RecipeError
from llamacart.llama.model import Model
from llamacart_trainer.fitting.coverage import check_coverage, cover
from llamacart_trainer.fitting.samples import SampleBuilder
from llamacart_trainer.fitting.training import train
from llamacart_trainer.recipe.pairing import PairedRows, tie
from llamacart_trainer.recipe.recipe import Task
from llamacart_trainer.recipe.records import FileText, TextPair
from llamacart_trainer.recipe.tasks import make_task

LONG = ("the red number one of all the numbers", "le nombre rouge un de tous les nombres")


def task(*pairs: tuple[str, str] | TextPair, **settings: object) -> Task:
    return make_task(pairs, name="x", **settings)


def test_long_pairs_are_not_told_of(tiny_model: Model) -> None:
    for pairing in ("handover", "position", "relative", "distribution", "align"):
        own = task(LONG, LONG, pairing=[pairing])
        samples = SampleBuilder(own, tiny_model).build()
        assert check_coverage(own, samples) is None
        assert min(found.share for found in cover(own, samples)) >= 0.3
    same = task((LONG[0], f"Say it. {LONG[0]}"), pairing=["suffix"])
    assert check_coverage(same, SampleBuilder(same, tiny_model).build()) is None


def test_chats_are_not_told_of_for_their_context(tiny_model: Model) -> None:
    question = "a question that is much longer than what is answered to it " * 4
    own = task((question, *LONG), format="chat")
    assert check_coverage(own, SampleBuilder(own, tiny_model).build()) is None


def test_short_ones_are_named_with_their_place_and_share(tiny_model: Model) -> None:
    short = TextPair(FileText("a", "my.csv:3"), "b")
    notices: list[str] = []
    train(task(LONG, short, LONG, threshold=0.0), tiny_model, on_notice=notices.append)
    (notice,) = notices
    assert notice.startswith("1 of 3 pairs gives few rows: my.csv:3 (1 row")
    assert notice.endswith("longer texts, or another pairing than handover and identity, give more")


def test_a_small_share_is_few() -> None:
    own = task(("a", "b"), ("c", "d"))
    tokens = range(41)
    told = [tie(tokens, tokens, [(i, i) for i in range(1, n)]) for n in (8, 30)]
    samples = [
        PairedRows(s.source, s.target, s.source_rows, s.target_rows, group=number)
        for number, s in enumerate(told)
    ]
    assert [found.few for found in cover(own, samples)] == [True, False]
    assert "1 of 2 pairs gives few rows: pair 0 (7 rows, 18%)" in str(check_coverage(own, samples))


def test_many_are_counted_and_few_named(tiny_model: Model) -> None:
    own = task(*[("a", "b")] * 9)
    notice = check_coverage(own, SampleBuilder(own, tiny_model).build())
    assert notice is not None
    assert notice.startswith("9 of 9 pairs give few rows: pair 0 (")
    assert notice.count("pair ") == 3
    assert ", …; " in notice


def test_nearly_none_is_refused(tiny_model: Model) -> None:
    own = task(("a", "b"))
    samples = SampleBuilder(own, tiny_model).build()
    with pytest.raises(RecipeError, match="recipe 'x': its pairs give 1 paired row, and 0 of 1"):
        check_coverage(own, samples)
    own = task(LONG, ("a", "b"), ("a", "b"))
    tied = SampleBuilder(own, tiny_model).build()[:1]
    with pytest.raises(RecipeError, match="2 of 3 give none; longer texts"):
        check_coverage(own, tied)
