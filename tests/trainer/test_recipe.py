"""Recipes and data sets: what is read, and what is refused with file, line and value."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llamacart.errors import NotFoundError, RecipeError
from llamacart_trainer.pairing import BOUNDARY_WEIGHT, handover, identity, position
from llamacart_trainer.recipe import load_task, read_pairs

LIBRARY = Path(__file__).parents[2] / "cartridges" / "library"


def words(text: str, *, add_special: bool = True) -> list[int]:
    """A tokeniser of words; 1 stands for BOS."""
    return [1] * add_special + [sum(word.encode()) for word in text.split()]


def write_recipe(folder: Path, recipe: str = 'name = "x"\n', pairs: str | None = None) -> Path:
    (folder / "recipe.toml").write_text(recipe)
    if pairs is None:
        pairs = json.dumps({"source": "a b c", "target": "d e f"}) + "\n"
    (folder / "pairs.jsonl").write_text(pairs)
    return folder


def test_defaults(tmp_path: Path) -> None:
    task = load_task(write_recipe(tmp_path))
    assert task.recipe.solver == "ridge-identity"
    assert [pair.target for pair in task.pairs] == ["d e f"]


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("name = ", "not TOML"),
        ('name = "a/b"', "name has value 'a/b'"),
        ('name = "x"\npenalty = 0', "penalty has value 0"),
        ('name = "x"\npenalty = nan', "penalty has value nan"),
        ('name = "x"\nthreshold = -1', "threshold has value -1"),
        ('name = "x"\ndefault_alpha = 11', "default_alpha has value 11"),
        ('name = "x"\nprior = "ones"', "prior has value 'ones'"),
        ('name = "x"\npairing = []', r"pairing has value \[\]"),
        ('name = "x"\nlambda = 3', "lambda has value 3"),
        ('name = "x"\ngenerate_target = 3', "paired by position only"),
    ],
)
def test_bad_settings(tmp_path: Path, recipe: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_task(write_recipe(tmp_path, recipe))


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ("", "no pairs"),
        ("\n\n", "no pairs"),
        ("{", r"pairs.jsonl:1: not JSON"),
        ("[1]", "not an object"),
        ('{"source": "a"}', "'target' has value None"),
        ('{"source": "a", "target": " "}', "'target' has value ' '"),
        ('{"source": "a", "target": "b"}\n{"source": 3, "target": "b"}', "jsonl:2: 'source' has"),
    ],
)
def test_bad_pairs(tmp_path: Path, pairs: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_task(write_recipe(tmp_path, pairs=pairs))


def test_missing_things(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="does not exist"):
        load_task(tmp_path / "absent")
    with pytest.raises(NotFoundError, match=r"recipe.toml"):
        load_task(tmp_path)
    write_recipe(tmp_path)
    (tmp_path / "pairs.jsonl").unlink()
    with pytest.raises(NotFoundError, match=r"pairs.jsonl"):
        load_task(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(RecipeError, match="neither a folder"):
        load_task(tmp_path / "notes.txt")


def test_text_that_is_no_utf8(tmp_path: Path) -> None:
    write_recipe(tmp_path)
    (tmp_path / "pairs.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(RecipeError, match="cannot be read"):
        load_task(tmp_path)


def test_the_papers_shape(tmp_path: Path) -> None:
    path = tmp_path / "my set.json"
    path.write_text(
        json.dumps([[{"prompt": "Bonjour", "tokens": 20}, {"prompt": "Hello", "tokens": 10}]])
    )
    task = load_task(path)
    assert task.recipe.name == "my-set"
    assert task.recipe.pairing == ["position"]
    assert (task.pairs[0].source, task.pairs[0].source_tokens) == ("Hello", 10)
    assert (task.pairs[0].target, task.pairs[0].target_tokens) == ("Bonjour", 20)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("nope", "not JSON"),
        ("{}", "not a list"),
        ("[]", "not a list"),
        ('[[{"prompt": "a"}]]', "pair 0: not a list of two"),
        ('[[{"prompt": "a"}, {"text": "b"}]]', "'prompt' has value None"),
        ('[[{"prompt": "a", "tokens": -1}, {"prompt": "b"}]]', "'tokens' has value -1"),
    ],
)
def test_the_papers_shape_broken(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "set.json"
    path.write_text(content)
    with pytest.raises(RecipeError, match=message):
        load_task(path)


def test_the_hash_follows_the_pairs(tmp_path: Path) -> None:
    one = load_task(write_recipe(tmp_path)).dataset_hash
    write_recipe(tmp_path, pairs='{"source": "a b c", "target": "d e g"}\n')
    assert load_task(tmp_path).dataset_hash != one


def test_position_ties_rows_up_to_the_shorter_and_skips_bos() -> None:
    paired = position(words, "a b c d", "e f", 0)
    assert paired.rows == [(1, 1), (2, 2)]


def test_identity_ties_the_target_to_itself() -> None:
    paired = identity(words, "a b", "c d e", 0)
    assert paired.source == paired.target == words("c d e")
    assert paired.rows == [(1, 1), (2, 2), (3, 3)]


@pytest.mark.parametrize(("number", "left", "right"), [(0, 4, 3), (1, 6, 5), (2, 4, 3)])
def test_handover_ties_equal_tokens_after_the_cut(number: int, left: int, right: int) -> None:
    """Left and right: BOS and 35 or 65 % of the words."""
    source, target = "a b c d e f g h", "u v w x y z"
    paired = handover(words, source, target, number)
    assert list(paired.target) == words(target)
    assert list(paired.source[:left]) == words(source)[:left]
    tail = list(paired.source[left:])
    assert tail == list(paired.target[right:])
    boundary = [(left - 1, right - 1)] * BOUNDARY_WEIGHT
    assert paired.rows == boundary + [(left + i, right + i) for i in range(len(tail))]


def test_handover_of_one_word_has_only_the_boundary() -> None:
    assert handover(words, "a", "b", 0).rows == [(1, 1)] * BOUNDARY_WEIGHT


@pytest.mark.parametrize("name", sorted(p.name for p in LIBRARY.iterdir() if p.is_dir()))
def test_shipped_recipes(name: str) -> None:
    task = load_task(LIBRARY / name)
    assert task.recipe.name == name
    assert len(task.pairs) >= 60
    assert task.recipe.heldout is not None
    heldout = read_pairs(LIBRARY / name / task.recipe.heldout)
    assert len(task.pairs) + len(heldout) >= 120
    trained = {pair.source for pair in task.pairs} | {pair.target for pair in task.pairs}
    assert not trained & {pair.source for pair in heldout}
    assert len({pair.source for pair in task.pairs}) == len(task.pairs)
