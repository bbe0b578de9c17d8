"""Scorers: functions from prompts and continuations to one number each, 1 for what is wanted."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from llamacart.errors import RecipeError
from llamacart_trainer.recipe.words import any_of

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

Scorer = Callable[[Sequence[str], Sequence[str]], Sequence[float]]
"""(prompts [N], continuations [N]) → scores [N], from 0 to 1 where `tune` is to use them."""


def language(code: str) -> Scorer:
    """1 where py3langid takes a continuation for the language `code` (ISO 639-1).

    Raises:
        RecipeError: py3langid does not know the language.
    """
    import py3langid

    # Loads the model once; `set_languages` would change it for everybody in the process.
    py3langid.classify("")
    known = py3langid.langid.IDENTIFIER.nb_classes
    if code not in known:
        raise RecipeError(f"language {code!r} is not among {', '.join(sorted(known))}")

    def score(_prompts: Sequence[str], continuations: Sequence[str]) -> list[float]:
        return [
            float(text.strip() != "" and py3langid.classify(text)[0] == code)
            for text in continuations
        ]

    return score


def words(target: Sequence[str], forbidden: Sequence[str] = ()) -> Scorer:
    """1 where a continuation holds one of `target` (if any are given) and none of `forbidden`.

    Words or phrases are found whole, in every script, without regard to case; see `any_of`.
    """
    wanted, unwanted = any_of(target), any_of(forbidden)

    def score(_prompts: Sequence[str], continuations: Sequence[str]) -> list[float]:
        return [
            float(
                (wanted is None or wanted.search(text) is not None)
                and (unwanted is None or unwanted.search(text) is None)
            )
            for text in continuations
        ]

    return score


def users_own(spec: str, folder: Path) -> Scorer:
    """The function that `module:function` or `file.py:function` names.

    It runs with all rights of this process, as any Python that a recipe's owner wrote.

    Args:
        spec: What the recipe says.
        folder: The recipe's folder; a file is relative to it.

    Raises:
        RecipeError: There is no such module, file or function.
    """
    place, _, name = spec.rpartition(":")
    try:
        module = _load(folder / place) if place.endswith(".py") else importlib.import_module(place)
    except RecipeError:
        raise
    except Exception as error:
        raise RecipeError(f"scorer {spec!r}: {place!r} cannot be imported: {error!r}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise RecipeError(f"scorer {spec!r}: {place!r} has no function {name!r}")
    scorer: Scorer = function
    return scorer


def run(scorer: Scorer, prompts: Sequence[str], continuations: Sequence[str]) -> list[float]:
    """Call a scorer and check what it returns; a blank continuation scores 0 at most.

    A scorer that asks only for the absence of words would have nothing against it.

    Raises:
        RecipeError: It raised, or did not return one finite number a continuation.
    """
    name = getattr(scorer, "__qualname__", repr(scorer))
    try:
        scores = np.asarray(scorer(prompts, continuations), np.float64)
    except Exception as error:
        raise RecipeError(f"scorer {name} failed: {error!r}") from error
    if scores.shape != (len(continuations),) or not np.isfinite(scores).all():
        raise RecipeError(
            f"scorer {name} returned {scores!r} for {len(continuations)} continuations; one "
            "finite number each is needed"
        )
    return [
        float(score) if text.strip() else min(0.0, float(score))
        for score, text in zip(scores, continuations, strict=True)
    ]


def _load(path: Path) -> ModuleType:
    if not path.is_file():
        raise RecipeError(f"scorer file {str(path)!r} does not exist")
    name = f"llamacart_scorer_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise RecipeError(f"scorer file {str(path)!r} is not Python")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickling look a module up by its name.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
