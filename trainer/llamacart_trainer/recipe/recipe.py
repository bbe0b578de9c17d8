"""A recipe: which texts a cartridge is fitted on, and with which settings."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from llamacart.cartridge import ALPHA_LIMIT
from llamacart.disk.text import read_toml
from llamacart.errors import InputError, NotFoundError, RecipeError
from llamacart.values.near import did_you_mean
from llamacart_trainer.recipe.conversation import BUILTIN, BUILTIN_ENGLISH, ConversationKeys
from llamacart_trainer.recipe.distilled import DistilledPrompt, read_prompt
from llamacart_trainer.recipe.draft import DraftSettings
from llamacart_trainer.recipe.evaluation import EvaluationSettings
from llamacart_trainer.recipe.facts import Fact, read_facts
from llamacart_trainer.recipe.lines import read_file
from llamacart_trainer.recipe.pairing import TIES
from llamacart_trainer.recipe.records import (
    MAX_GENERATED,
    TextPair,
    read_pairs,
    read_paper_pairs,
    read_records,
    read_texts,
)
from llamacart_trainer.recipe.target import LOW_RANK, RANK, TargetKeys
from llamacart_trainer.recipe.turns import ChatPair, Exchange, read_chat_pairs, read_neutral
from llamacart_trainer.recipe.validation import InvalidValue, file_or

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "BUILTIN",
    "BUILTIN_ENGLISH",
    "EvaluationSettings",
    "Recipe",
    "Task",
    "TextPair",
    "builtin_neutral",
    "load_task",
    "read_pairs",
    "read_records",
    "read_texts",
]

PairingName = Literal[
    "position", "relative", "suffix", "align", "distribution", "handover", "identity"
]
Item = TypeVar("Item")

NEUTRAL_TEXTS = 128
"""Of the trainer's own 384 where a prompt is distilled. All together count five times as much as
the answers, however many there are, and a third of them keeps other texts nearly as well."""

PRIORS = {"zero": "ridge", "identity": "ridge-identity"}
"""Solvers under the names of their priors, which recipes had before there were others."""

_Alpha = Annotated[float, Field(ge=-ALPHA_LIMIT, le=ALPHA_LIMIT)]


class Recipe(ConversationKeys, TargetKeys, BaseModel):
    """Settings of a fit, as written in `recipe.toml`.

    Defaults are those that served best on Gemma 3 270M; the paper's are `solver = "ridge"`,
    `penalty = 100`, `threshold = 0.03`, `impact = 0.05`, `pairing = ["position"]`,
    `capture = "faithful"` and its own numbers of generated tokens. `ConversationKeys` has the keys
    of chats and prompts.

    Attributes:
        name: Short id of the cartridge.
        description: One sentence for people.
        model: What to fit it for, where the command line names nothing else.
        default_alpha: α when a request names none.
        train: File of the training pairs, or of the facts.
        neutral: File of `{"text"}` objects, and in format `chat` of `{"prompt", "text"}` too, that
            the cartridge is to leave alone; `builtin` stands for the texts of `builtin_neutral`,
            and `builtin-english` for those and English prose, as does its absence in a recipe of
            kind `prompt`, and of kind `facts` where `when` is empty.
        neutral_texts: How many of them are taken, evenly from all; see `spread`. Where a prompt is
            distilled that waits for nothing, `NEUTRAL_TEXTS` of the trainer's own by default.
        heldout: File of pairs for the evaluation.
        prompts: File of `{"prompt", "reference"?}` for the evaluation.
        solver: How a layer is fitted. `prior = "zero" | "identity"` is read as
            `ridge | ridge-identity`.
        impact: Least mean step of a neuron that is kept.
        pairing: Which rows are tied; see `llamacart_trainer.recipe.pairing`.
        capture: `fixed`: continuations are generated once, by the unsteered model. `faithful`:
            those of the sources anew before each layer, by the model as steered so far.
        generate_source: Greedy tokens to append to each source.
        generate_target: The same for each target; with `suffix` they are appended to both.
        draft: See `DraftSettings`; none where the pairs come from elsewhere.
        evaluation: See `EvaluationSettings`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$")]
    description: str = ""
    model: str = "demo"
    default_alpha: _Alpha = 0.8
    train: str = "pairs.jsonl"
    neutral: str | None = None
    neutral_texts: Annotated[int, Field(ge=1)] | Literal["all"] = "all"
    heldout: str | None = None
    prompts: str | None = None
    solver: str = "ridge-identity"
    impact: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    pairing: Annotated[list[PairingName], Field(min_length=1)] = ["handover", "identity"]
    capture: Literal["fixed", "faithful"] = "fixed"
    generate_source: Annotated[int, Field(ge=0, le=MAX_GENERATED)] = 0
    generate_target: Annotated[int, Field(ge=0, le=MAX_GENERATED)] = 0
    draft: DraftSettings | None = None
    evaluation: EvaluationSettings = EvaluationSettings()

    @model_validator(mode="before")
    @classmethod
    def _read_prior(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "prior" not in values:
            return values
        prior = values["prior"]
        if "solver" in values:
            raise ValueError(f"prior has value {prior!r}, but solver is given too; remove prior")
        if prior not in PRIORS:
            near = did_you_mean(prior, PRIORS)
            raise ValueError(f"prior has value {prior!r}; {' or '.join(PRIORS)} is needed{near}")
        return {k: v for k, v in values.items() if k != "prior"} | {"solver": PRIORS[prior]}

    @field_validator("solver")
    @classmethod
    def _know_solver(cls, solver: str) -> str:
        # Commands that fit nothing import this module too, and are quicker without SciPy.
        from llamacart_trainer.solvers import SOLVERS

        if solver not in SOLVERS:
            near = did_you_mean(solver, SOLVERS)
            raise ValueError(f"a solver is one of {', '.join(SOLVERS)}{near}")
        return solver

    @model_validator(mode="after")
    def _rank_suits_solver(self) -> Recipe:
        if self.target == "residual" and self.solver == LOW_RANK and not self.waits:
            self._fill({"rank": RANK})
        return self

    @model_validator(mode="after")
    def _some_neutral_texts_suffice(self) -> Recipe:
        shipped = self.neutral in (None, BUILTIN_ENGLISH)
        if self.kind == "prompt" and shipped and not self.waits:
            self._fill({"neutral_texts": NEUTRAL_TEXTS})
        return self

    @model_validator(mode="after")
    def _pairings_agree(self) -> Recipe:
        grows = {*TIES, "align"}
        if (self.generate_source or self.generate_target) and not grows & set(self.pairing):
            raise ValueError(
                f"generated tokens are paired by {', '.join(sorted(grows))} only; add one of them"
            )
        if (self.target == "object") != (self.kind == "facts"):
            raise ValueError(
                f"target has value {self.target!r}, which does not go with kind {self.kind!r}"
            )
        if self.closes_gap and "distribution" in self.pairing:
            raise ValueError(
                f"pairing has value {self.pairing!r}, which ties no rows; target {self.target!r} "
                "needs rows that are tied"
            )
        if "distribution" in self.pairing and (len(self.pairing) > 1 or self.neutral):
            raise ValueError(
                f"pairing has value {self.pairing!r}, but 'distribution' ties no rows, so it "
                "takes no other pairing and no neutral texts"
            )
        return self


@dataclass(frozen=True)
class Task:
    """A recipe with its training data.

    Attributes:
        recipe: The settings.
        pairs: Training pairs of raw texts.
        neutral: Texts that the cartridge is to leave alone.
        folder: Where the recipe's other files are; None where it came without.
        chats: Training pairs in format `chat`.
        prompt: What a recipe of kind `prompt` distils.
        neutral_chats: Messages whose answers the cartridge is to leave alone.
        facts: What a recipe of kind `facts` teaches.
    """

    recipe: Recipe
    pairs: tuple[TextPair, ...] = ()
    neutral: tuple[str, ...] = ()
    folder: Path | None = None
    chats: tuple[ChatPair, ...] = ()
    prompt: DistilledPrompt | None = None
    neutral_chats: tuple[Exchange, ...] = ()
    facts: tuple[Fact, ...] = ()

    def with_recipe(self, recipe: Recipe) -> Task:
        """The same data under another recipe, with the neutral texts that it names.

        Raises:
            RecipeError: Its neutral texts cannot be read.
        """
        neutral, chats = self.neutral, self.neutral_chats
        old, new = ((r.neutral, r.neutral_texts) for r in (self.recipe, recipe))
        if old != new:
            if new[0] is None is old[0] and self.folder is None:  # a program gave them
                neutral, chats = left_alone(recipe, (*neutral, *chats))
            else:
                neutral, chats = _neutral(recipe, self.folder or Path())
        return replace(self, recipe=recipe, neutral=neutral, neutral_chats=chats)

    def with_answers(self, answers: Iterable[Exchange]) -> Task:
        """The same task with the model's answers behind its prompt, so that none is generated.

        Raises:
            RecipeError: It distils no prompt.
        """
        if self.prompt is None:
            raise RecipeError(f"recipe {self.recipe.name!r} distils no prompt")
        return replace(self, prompt=replace(self.prompt, answers=tuple(answers)))

    @property
    def when(self) -> tuple[str, ...]:
        """What the cartridge waits for; see `TargetKeys.when`."""
        if self.recipe.when is not None:
            return tuple(self.recipe.when)
        return tuple(dict.fromkeys(fact.subject for fact in self.facts))

    @property
    def dataset_hash(self) -> str:
        """SHA-256 (hex) over the pairs, the prompt and the neutral texts as JSON."""
        pairs = [
            [pair.source, pair.target, pair.source_tokens, pair.target_tokens]
            for pair in self.pairs
        ]
        data: dict[str, Any] = {"pairs": pairs, "neutral": self.neutral}
        # What a recipe of raw pairs has none of is left out: its hash is in older cartridges.
        if self.chats:
            data["chats"] = [pair.as_json for pair in self.chats]
        if self.prompt is not None:
            data["prompt"] = self.prompt.as_json
        if self.facts:
            data["facts"] = [[f.prompt, f.subject, f.object, f.was] for f in self.facts]
        if self.neutral_chats:
            data["neutral chats"] = [[e.prompt, e.text, e.ended] for e in self.neutral_chats]
        return hashlib.sha256(json.dumps(data, ensure_ascii=False).encode()).hexdigest()


def load_task(path: Path) -> Task:
    """Read a recipe folder, or a data set in the paper's JSON shape.

    Args:
        path: A folder with `recipe.toml` and the files it names, or a `.json` file that holds
            `[[{"prompt", "tokens"} target, {"prompt", "tokens"} source], …]`.

    Raises:
        NotFoundError: There is no such folder or file.
        RecipeError: What is there cannot be used; the message names file, line and value.
    """
    if path.is_dir():
        recipe = read_recipe(path / "recipe.toml")
        return _read_task(recipe, path)
    if path.is_file() and path.suffix == ".json":
        name = "".join(c if c.isalnum() or c in "._-" else "-" for c in path.stem).lstrip(".")
        recipe = Recipe(name=name[:64] or "paper", pairing=["position"])
        return Task(recipe, read_paper_pairs(path), folder=path.parent)
    if path.exists():
        raise RecipeError(f"recipe {str(path)!r} is neither a folder nor a .json data set")
    raise NotFoundError(f"recipe {str(path)!r} does not exist")


def builtin_neutral(*, english: bool = False) -> tuple[str, ...]:
    """Texts that ship with the trainer: code, numbers, lists, and prose in forty languages.

    There is no English and no French prose among them, since what is neutral there depends on
    what the cartridge is for.

    Args:
        english: With English prose, which a cartridge for conversations is to leave alone.
    """
    texts: list[str] = []
    for name in ("neutral.jsonl", "prose.jsonl")[: 1 + english]:
        with as_file(files("llamacart_trainer").joinpath(name)) as path:
            texts += read_texts(path)
    return tuple(texts)


def _read_task(recipe: Recipe, folder: Path) -> Task:
    neutral, chats = _neutral(recipe, folder)
    task = Task(recipe, neutral=neutral, folder=folder, neutral_chats=chats)
    if recipe.kind == "prompt":
        return replace(task, prompt=read_prompt(recipe, folder))
    if recipe.kind == "facts":
        return replace(task, facts=read_facts(folder / recipe.train))
    path, suffix = folder / recipe.train, "suffix" in recipe.pairing
    if recipe.format == "chat":
        return replace(task, chats=read_chat_pairs(path, suffix=suffix))
    return replace(task, pairs=read_pairs(path, suffix=suffix))


def _neutral(recipe: Recipe, folder: Path) -> tuple[tuple[str, ...], tuple[Exchange, ...]]:
    apart = recipe.kind == "facts" and recipe.waits  # other texts are never acted on
    name = recipe.neutral or (None if recipe.kind == "pairs" or apart else BUILTIN_ENGLISH)
    if name is None:
        return (), ()
    if name in (BUILTIN, BUILTIN_ENGLISH):
        return left_alone(recipe, builtin_neutral(english=name == BUILTIN_ENGLISH))
    with file_or(name, BUILTIN, BUILTIN_ENGLISH):
        if recipe.format == "chat" or recipe.kind != "pairs":
            texts, chats = read_neutral(folder / name)
            return left_alone(recipe, (*texts, *chats))
        return left_alone(recipe, read_texts(folder / name))


def left_alone(
    recipe: Recipe, items: Sequence[str | Exchange]
) -> tuple[tuple[str, ...], tuple[Exchange, ...]]:
    """The neutral texts and the answers that a recipe takes of those that there are."""
    kept = spread(items, recipe.neutral_texts)
    texts = tuple(item for item in kept if isinstance(item, str))
    return texts, tuple(item for item in kept if not isinstance(item, str))


def spread(items: Sequence[Item], most: int | Literal["all"]) -> Sequence[Item]:
    """At most so many of the items, in their order, as far apart as can be."""
    if most == "all" or most >= len(items):
        return items
    return [items[i * len(items) // most] for i in range(most)]


def read_recipe(path: Path) -> Recipe:
    """Read a `recipe.toml` alone.

    Raises:
        NotFoundError: There is no such file.
        RecipeError: It cannot be used.
    """
    try:
        return Recipe.model_validate(read_toml(path))
    except InputError as error:
        raise RecipeError(error.message) from error
    except ValidationError as error:
        first = InvalidValue.first(error)
        line = _line_of(read_file(path), first.place)
        where = f"{path}:{line}" if line else str(path)
        raise RecipeError(f"{where}: {first.advice(Recipe)}", param=first.key or None) from error


def _line_of(text: str, place: Sequence[str | int]) -> int | None:
    """Number of the line that sets a key, or else of the one that opens its table."""
    first, second = ([str(part) for part in place] + ["", ""])[:2]
    table = ""
    opened = None
    for number, line in enumerate(text.split("\n"), start=1):
        key = line.split("=")[0].strip().strip("\"'")
        if line.lstrip().startswith("["):
            table = line.strip().strip("[]").strip()
            opened = number if table == first else opened
        elif (not table and key == first) or (table == first and key == second):
            return number
    return opened
