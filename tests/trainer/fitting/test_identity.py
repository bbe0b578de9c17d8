"""Digests of what results depend on: equal for equal things, different for everything else."""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from llamacart_trainer.evaluation.scorers import language, users_own, words
from llamacart_trainer.fitting import identity
from llamacart_trainer.fitting.identity import differing, digest, digests, of_function


def same(one: object, other: object) -> bool:
    return digest(of_function(one)) == digest(of_function(other))


def weighted(weight: float) -> Callable[[list[str], list[str]], list[float]]:
    return lambda _prompts, texts: [weight * len(text) for text in texts]


@dataclass
class Counter:
    """A scorer that is an object."""

    words: frozenset[str]

    def __call__(self, _prompts: list[str], texts: list[str]) -> list[float]:
        return [float(text in self.words) for text in texts]

    def score(self, _prompts: list[str], texts: list[str]) -> list[float]:
        return self(_prompts, texts)


def test_scorers_made_alike_are_the_same() -> None:
    assert same(None, None)
    assert same(words(["a", "b"], ["c"]), words(["a", "b"], ["c"]))
    assert same(language("fr"), language("fr"))
    assert same(weighted(0.5), weighted(0.5))
    assert same(Counter(frozenset("ab")), Counter(frozenset("ba")))
    assert same(Counter(frozenset("ab")).score, Counter(frozenset("ab")).score)
    assert same(functools.partial(pow, exp=2), functools.partial(pow, exp=2))


def test_scorers_with_other_arguments_are_others() -> None:
    found = [
        None,
        words(["a", "b"]),
        words(["a", "c"]),
        words([], ["a", "b"]),
        words(["a", "b"], ["c"]),
        # Longer than what a pattern shows of itself.
        words(["word" * 100, "a"]),
        words(["word" * 100, "b"]),
        language("fr"),
        language("de"),
        weighted(0.5),
        weighted(0.25),
        Counter(frozenset("ab")),
        Counter(frozenset("ac")),
        Counter(frozenset("ab")).score,
        functools.partial(pow, exp=2),
        functools.partial(pow, exp=3),
        lambda _prompts, texts: [1.0 for _ in texts],
        lambda _prompts, texts: [2.0 for _ in texts],
        lambda _prompts, texts, most=1.0: [most for _ in texts],
        lambda _prompts, texts, most=2.0: [most for _ in texts],
        lambda _prompts, texts: [float(text.islower()) for text in texts],
        lambda _prompts, texts: [float(text.isupper()) for text in texts],
    ]
    assert len({digest(of_function(each)) for each in found}) == len(found)


def test_a_users_own_scorer_is_told_by_its_whole_file(tmp_path: Path) -> None:
    """A helper beside the function counts: its text is in the same file."""
    path = tmp_path / "mine.py"

    def written(least: int) -> object:
        path.write_text(
            f"def long(text):\n    return len(text) > {least}\n\n"
            "def f(prompts, texts):\n    return [float(long(t)) for t in texts]\n"
        )
        return of_function(users_own("mine.py:f", tmp_path))

    assert written(3) == written(3)
    assert written(3) != written(4)


def test_a_function_that_holds_itself_ends() -> None:
    def score(_prompts: list[str], texts: list[str]) -> list[float]:
        return [1.0 for _ in texts] if texts else score(_prompts, texts)

    score.again = score  # type: ignore[attr-defined]
    assert same(score, score)


def test_state_that_cannot_be_seen_is_nobody_elses() -> None:
    class Closed:
        __slots__ = ()

    assert not same(Closed(), Closed())


def test_differing_names_what_is_other_or_missing() -> None:
    own = digests({"recipe": {"a": 1, "b": 2}, "model": "x", "version": [1]})
    assert own == digests({"version": [1], "model": "x", "recipe": {"b": 2, "a": 1}})
    assert differing(own, own) == []
    assert differing({**own, "model": "y"}, own) == ["model"]
    assert differing({}, own) == ["recipe", "model", "version"]


def test_the_source_text_is_in_the_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Checkpoints of the code before a change are not those of the code after it."""
    assert identity.source_digest() in identity.versions()
    package = tmp_path / "package"
    (package / "__pycache__").mkdir(parents=True)
    (package / "a.py").write_text("x = 1\n")
    monkeypatch.setattr(identity, "PACKAGES", ("package",))
    monkeypatch.setattr(identity, "files", lambda name: tmp_path / name)

    def read() -> str:
        identity.source_digest.cache_clear()
        return identity.source_digest()

    try:
        before = read()
        (package / "__pycache__" / "a.pyc").write_bytes(b"compiled")
        assert read() == before
        (package / "a.py").write_text("x = 2\n")
        changed = read()
        (package / "texts.txt").write_text("a text\n")
        assert len({before, changed, read()}) == 3
    finally:
        identity.source_digest.cache_clear()
    assert importlib.resources.files("llamacart_trainer").is_dir()
