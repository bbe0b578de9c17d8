"""Recipes and data sets: what is read, and what is refused with file, line and value."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamacart.errors import NotFoundError, RecipeError
from llamacart_trainer.evaluation import scorers
from llamacart_trainer.evaluation.plan import fixed_text
from llamacart_trainer.fitting.settings import StorageName
from llamacart_trainer.recipe.pairing import (
    BOUNDARY_WEIGHT,
    distribution,
    handover,
    identity,
    neutral_text,
    position,
    relative,
    suffix,
    tie_shares,
)
from llamacart_trainer.recipe.recipe import (
    NEUTRAL_TEXTS,
    Recipe,
    builtin_neutral,
    load_task,
    spread,
)

LIBRARY = Path(__file__).parents[3] / "cartridges" / "library"


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
        ('name = "x"\nlambda = 3', r"recipe.toml:2: there is no key 'lambda'$"),
        (
            'name = "x"\ndefault-alpha = 1',
            r"toml:2: .*'default-alpha'; did you mean 'default_alpha'",
        ),
        ("penalty = 3", r"recipe.toml: name is missing$"),
        ("", r"recipe.toml: name is missing$"),
        ("name = 3", r"recipe.toml:1: name has value 3: .*string"),
        ('name = "x"\nevaluation = 3', r"toml:2: evaluation has value 3: a table is needed"),
        ('name = "x"\npairing = "align"', r"toml:2: pairing has value 'align': .* list"),
        (
            'name = "x"\n\n[evaluation]\ntoken = 8',
            r":4: .*'evaluation.token'; .* 'evaluation.tokens'",
        ),
        ('name = "x"\n[evaluation]\npenalty = 8', r":3: .*; it belongs above the first .table."),
        ('name = "x"\nlanguage = "fr"', r"toml:2: .*'language'; it belongs in .evaluation."),
        ('name = "x"\n[train]\nfile = "a"', r"toml:2: train has value {'file': 'a'}"),
        ('name = "x"\n[eval]\ntokens = 8', r"toml:2: there is no key 'eval'"),
        ("name = " + 5000 * "[", "not TOML .nested too deep"),
        ('name = "x"\ngenerate_target = 3', "generated tokens are paired by align, distribution"),
        ('name = "x"\nsolver = "newton"', r"recipe.toml:2: solver has value 'newton'.*ridge"),
        ('name = "x"\nsolver = "ridge"\nprior = "zero"', "prior has value 'zero', but solver"),
        ('name = "x"\n\npenalty = "some"', r"recipe.toml:3: penalty has value 'some'"),
        ('name = "x"\nrank = 0', "rank has value 0"),
        ('name = "x"\nstorage = "f64"', "storage has value 'f64'"),
        ('name = "x"\ncapture = "live"', "capture has value 'live'"),
        ('name = "x"\npairing = ["position", "magic"]', "pairing.*has value 'magic'"),
        ('name = "x"\npairing = ["distribution", "position"]', "takes no other pairing"),
        ('name = "x"\nneutral = "n"\npairing = ["distribution"]', "no neutral texts"),
        (
            'name = "x"\n[evaluation]\nlanguage = "French"',
            r"toml:3: evaluation.language has value 'Fr",
        ),
        ('name = "x"\n[evaluation]\nalphas = [0.4, 11]', "evaluation.alphas has value 11"),
        ('name = "x"\n[evaluation]\nscorer = "mine"', "evaluation.scorer has value 'mine'"),
        ('name = "x"\n[evaluation]\ntokens = 0', r"recipe.toml:3: evaluation.tokens has value 0"),
    ],
)
def test_bad_settings(tmp_path: Path, recipe: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_task(write_recipe(tmp_path, recipe))


@pytest.mark.parametrize(("prior", "solver"), [("zero", "ridge"), ("identity", "ridge-identity")])
def test_prior_is_an_older_name_of_a_solver(tmp_path: Path, prior: str, solver: str) -> None:
    recipe = load_task(write_recipe(tmp_path, f'name = "x"\nprior = "{prior}"')).recipe
    assert recipe.solver == solver


def test_the_evaluation_table(tmp_path: Path) -> None:
    text = 'name = "x"\npenalty = "auto"\n[evaluation]\nlanguage = "fr"\nalphas = [0.4, 1]'
    recipe = load_task(write_recipe(tmp_path, text)).recipe
    assert recipe.penalty == "auto"
    assert recipe.evaluation.language == "fr"
    assert recipe.evaluation.alphas == [0.4, 1.0]
    assert recipe.evaluation.tokens is None


def test_builtin_neutral_texts_are_no_english_and_no_french(tmp_path: Path) -> None:
    texts = builtin_neutral()
    assert len(set(texts)) == len(texts) >= 150
    for language in ("en", "fr"):
        found = zip(
            scorers.run(scorers.language(language), [""] * len(texts), texts), texts, strict=True
        )
        prose = [text for hit, text in found if hit and text.count(" ") > 8 and text.endswith(".")]
        assert prose == []
    write_recipe(tmp_path, 'name = "x"\nneutral = "builtin"')
    assert load_task(tmp_path).neutral == texts


def test_builtin_neutral_texts_with_english_prose(tmp_path: Path) -> None:
    texts = builtin_neutral(english=True)
    prose = texts[len(builtin_neutral()) :]
    assert texts[: -len(prose)] == builtin_neutral()
    assert len(set(texts)) == len(texts)
    assert len(prose) >= 100
    assert all(text.isascii() for text in prose)
    assert not set(prose) & set(fixed_text("english"))  # which locality is measured on
    write_recipe(tmp_path, 'name = "x"\nneutral = "builtin-english"')
    assert load_task(tmp_path).neutral == texts


def test_another_recipe_brings_its_neutral_texts(tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text('{"text": "as it is"}\n')
    task = load_task(write_recipe(tmp_path, 'name = "x"\nneutral = "own.jsonl"'))
    changed = task.recipe.model_copy(update={"penalty": 3.0})
    assert task.with_recipe(changed).neutral == ("as it is",)
    assert task.with_recipe(changed).recipe.penalty == 3.0
    builtin = task.with_recipe(task.recipe.model_copy(update={"neutral": "builtin"}))
    assert builtin.neutral == builtin_neutral()
    assert builtin.with_recipe(task.recipe).neutral == ("as it is",)


@given(n=st.integers(1, 40), most=st.integers(1, 50))
def test_neutral_texts_are_spread_over_all(n: int, most: int) -> None:
    kept = list(spread([str(i) for i in range(n)], most))
    places = [int(item) for item in kept]
    assert len(kept) == min(n, most)
    assert places == sorted(set(places))
    gaps = [b - a for a, b in pairwise([*places, n + places[0]])]
    assert max(gaps) - min(gaps) <= 1


def test_so_many_neutral_texts_as_a_recipe_takes(tmp_path: Path) -> None:
    texts = builtin_neutral()
    recipe = 'name = "x"\nneutral = "builtin"\nneutral_texts = 90'
    task = load_task(write_recipe(tmp_path, recipe))
    assert task.neutral == texts[::2]
    everything = task.recipe.model_copy(update={"neutral_texts": "all"})
    assert task.with_recipe(everything).neutral == texts
    more = task.recipe.model_copy(update={"neutral_texts": len(texts) + 1})
    assert task.with_recipe(more).neutral == texts
    assert task.with_recipe(everything).dataset_hash != task.dataset_hash


@pytest.mark.parametrize(
    ("keys", "taken"),
    [
        ({}, NEUTRAL_TEXTS),
        ({"neutral": "builtin-english"}, NEUTRAL_TEXTS),
        ({"neutral_texts": "all"}, "all"),
        ({"neutral": "builtin"}, "all"),
        ({"neutral": "own.jsonl"}, "all"),
        ({"when": ["Velmora"]}, "all"),
        ({"kind": "pairs", "prompt": None}, "all"),
    ],
)
def test_a_distilled_prompt_takes_some_of_the_trainers_texts(
    keys: dict[str, object], taken: object
) -> None:
    values = {"name": "x", "kind": "prompt", "prompt": "Be kind.", **keys}
    recipe = Recipe.model_validate(values)
    assert recipe.neutral_texts == taken
    again = Recipe.model_validate(recipe.model_dump(exclude_unset=True))
    assert again.neutral_texts == taken


@pytest.mark.parametrize("value", ["0", "-1", '"half"', "1.5"])
def test_so_many_neutral_texts_as_there_cannot_be(tmp_path: Path, value: str) -> None:
    with pytest.raises(RecipeError, match="neutral_texts has value"):
        load_task(write_recipe(tmp_path, f'name = "x"\nneutral_texts = {value}'))


def test_neutral_texts_belong_to_the_task(tmp_path: Path) -> None:
    write_recipe(tmp_path, 'name = "x"\nneutral = "neutral.jsonl"')
    with pytest.raises(NotFoundError, match=r"neutral.jsonl"):
        load_task(tmp_path)
    (tmp_path / "neutral.jsonl").write_text('{"text": "as it is"}\n{"text": "so be it"}\n')
    task = load_task(tmp_path)
    assert task.neutral == ("as it is", "so be it")
    assert task.folder == tmp_path
    one = task.dataset_hash
    (tmp_path / "neutral.jsonl").write_text('{"text": "as it is"}\n')
    assert load_task(tmp_path).dataset_hash != one
    (tmp_path / "neutral.jsonl").write_text('{"text": "as it is"}\n{"txt": "so be it"}\n')
    with pytest.raises(RecipeError, match=r"neutral.jsonl:2: found the key 'txt'"):
        load_task(tmp_path)


def test_a_context_is_short_for_a_longer_target(tmp_path: Path) -> None:
    recipe = 'name = "x"\npairing = ["suffix"]'
    task = load_task(write_recipe(tmp_path, recipe, '{"context": "Be kind. ", "text": "Hello"}'))
    assert (task.pairs[0].source, task.pairs[0].target) == ("Hello", "Be kind. Hello")
    write_recipe(
        tmp_path, recipe, '{"source": "a", "target": "b a"}\n{"source": "a", "target": "ab"}'
    )
    with pytest.raises(RecipeError, match=r"pairs.jsonl:2: pairing 'suffix' needs.*'ab'"):
        load_task(tmp_path)
    write_recipe(tmp_path, recipe, '{"context": "a"}')
    with pytest.raises(RecipeError, match=r"pairs.jsonl:1: found the key 'context'"):
        load_task(tmp_path)


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
    assert paired.rows == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert paired.neutral


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


def test_relative_ties_equal_shares() -> None:
    paired = relative(words, "a b", "c d e f", 0)
    assert paired.rows == [(1, 2), (2, 4)]
    assert relative(words, "a b c d", "e f", 0).rows == [(1, 1), (2, 1), (3, 2), (4, 2)]
    assert tie_shares([1], [1, 2]).rows == []


@given(n=st.integers(1, 40), m=st.integers(1, 40))
def test_relative_is_monotone_and_ends_at_both_ends(n: int, m: int) -> None:
    rows = tie_shares(range(n + 1), range(m + 1)).rows
    assert [i for i, _ in rows] == list(range(1, n + 1))
    assert [j for _, j in rows] == sorted(j for _, j in rows)
    assert rows[-1] == (n, m)
    assert all(abs(i / n - j / m) < 1 / m for i, j in rows)
    assert tie_shares(range(n + 1), range(n + 1)).rows == [(i, i) for i in range(1, n + 1)]


def test_suffix_ties_what_both_end_in() -> None:
    paired = suffix(words, "c d e", "a b c d e", 0)
    assert paired.rows == [(1, 3), (2, 4), (3, 5)]
    assert suffix(words, "a b c", "b c", 0).rows == [(2, 1), (3, 2)]
    assert all(paired.source[i] == paired.target[j] for i, j in paired.rows)
    with pytest.raises(RecipeError, match="pair 4: pairing 'suffix' needs"):
        suffix(words, "c d e", "a b c", 4)
    with pytest.raises(RecipeError, match=r"pair 5: .*different tokens"):
        suffix(words, "ing", "sitting", 5)


def test_distribution_ties_nothing() -> None:
    paired = distribution(words, "a b", "c d e", 0)
    assert not paired.paired
    assert list(paired.source_rows) == [1, 2]
    assert list(paired.target_rows) == [1, 2, 3]


def test_neutral_rows_are_flagged() -> None:
    paired = neutral_text(words, "a b")
    assert paired.neutral
    assert paired.rows == [(0, 0), (1, 1), (2, 2)]


def test_handover_of_one_word_has_only_the_boundary() -> None:
    assert handover(words, "a", "b", 0).rows == [(1, 1)] * BOUNDARY_WEIGHT


def test_storages_are_those_of_the_fit() -> None:
    """Written twice, so that reading a recipe does not load SciPy."""
    assert Recipe.model_fields["storage"].annotation == StorageName
