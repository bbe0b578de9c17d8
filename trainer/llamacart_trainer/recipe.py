"""A recipe: which texts a cartridge is fitted on, and with which settings."""

from __future__ import annotations

import hashlib
import json
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from llamacart.cartridge import ALPHA_LIMIT
from llamacart.errors import NotFoundError, RecipeError

if TYPE_CHECKING:
    from pathlib import Path

PairingName = Literal["position", "identity", "handover"]


@dataclass(frozen=True)
class TextPair:
    """A text in the model's own manner and the same text as the cartridge wants it.

    Attributes:
        source: Text whose activations are mapped.
        target: Text whose activations are aimed at.
        source_tokens: Greedy tokens to append to the source; None means the recipe's number.
        target_tokens: The same for the target.
    """

    source: str
    target: str
    source_tokens: int | None = None
    target_tokens: int | None = None


class Recipe(BaseModel):
    """Settings of a fit, as written in `recipe.toml`.

    Defaults are those that served best on Gemma 3 270M; the paper's are `prior = "zero"`,
    `penalty = 100`, `threshold = 0.03`, `impact = 0.05`, `pairing = ["position"]` and its own
    numbers of generated tokens.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$")]
    description: str = ""
    model: str = "demo"
    default_alpha: Annotated[float, Field(ge=-ALPHA_LIMIT, le=ALPHA_LIMIT)] = 0.8
    train: str = "pairs.jsonl"
    heldout: str | None = None
    prompts: str | None = None
    threshold: Annotated[float, Field(ge=0, lt=1, description="δ")] = 0.03
    penalty: Annotated[float, Field(gt=0, allow_inf_nan=False, description="λ")] = 300.0
    prior: Literal["zero", "identity"] = "identity"
    impact: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    pairing: Annotated[list[PairingName], Field(min_length=1)] = ["handover", "identity"]
    skip_layers: Annotated[
        list[int], Field(description="Layers left alone; -1 is the last, the dearest to fit")
    ] = []
    generate_source: Annotated[int, Field(ge=0, le=256)] = 0
    generate_target: Annotated[int, Field(ge=0, le=256)] = 0

    @model_validator(mode="after")
    def _continuations_need_position(self) -> Recipe:
        if (self.generate_source or self.generate_target) and "position" not in self.pairing:
            raise ValueError("generated tokens are paired by position only; add that pairing")
        return self

    @property
    def solver(self) -> str:
        """Name of the fit as cartridges record it."""
        return "ridge-identity" if self.prior == "identity" else "ridge"


@dataclass(frozen=True)
class Task:
    """A recipe with its training pairs."""

    recipe: Recipe
    pairs: tuple[TextPair, ...]

    @property
    def dataset_hash(self) -> str:
        """SHA-256 (hex) over the pairs as JSON."""
        rows = [
            [pair.source, pair.target, pair.source_tokens, pair.target_tokens]
            for pair in self.pairs
        ]
        return hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()


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
        recipe = _read_recipe(path / "recipe.toml")
        pairs = read_pairs(path / recipe.train)
    elif path.is_file() and path.suffix == ".json":
        name = "".join(c if c.isalnum() or c in "._-" else "-" for c in path.stem).lstrip(".")
        recipe = Recipe(name=name[:64] or "paper", pairing=["position"])
        pairs = _read_paper_pairs(path)
    elif path.exists():
        raise RecipeError(f"recipe {str(path)!r} is neither a folder nor a .json data set")
    else:
        raise NotFoundError(f"recipe {str(path)!r} does not exist")
    return Task(recipe, pairs)


def read_pairs(path: Path) -> tuple[TextPair, ...]:
    """Read a `.jsonl` file of `{"source", "target"}` objects."""
    pairs = tuple(
        TextPair(
            source=_text(record, "source", where),
            target=_text(record, "target", where),
        )
        for where, record in read_records(path)
    )
    if not pairs:
        raise RecipeError(f"{path}: no pairs")
    return pairs


def read_records(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The JSON objects of a `.jsonl` file, each with a `file:line` for messages."""
    records = []
    for number, line in enumerate(_read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            record = json.loads(line)
        except ValueError as error:
            raise RecipeError(f"{where}: not JSON ({error})") from error
        if not isinstance(record, dict):
            raise RecipeError(f"{where}: not an object")
        records.append((where, record))
    return records


def _read_recipe(path: Path) -> Recipe:
    try:
        return Recipe.model_validate(tomllib.loads(_read_text(path)))
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path}: not TOML ({error})") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        fault = f"{key} has value {first['input']!r}: " if key else ""
        raise RecipeError(f"{path}: {fault}{first['msg']}", param=key or None) from error


def _read_paper_pairs(path: Path) -> tuple[TextPair, ...]:
    try:
        records = json.loads(_read_text(path))
    except ValueError as error:
        raise RecipeError(f"{path}: not JSON ({error})") from error
    if not isinstance(records, list) or not records:
        raise RecipeError(f"{path}: not a list of [target, source] pairs")
    pairs = []
    for number, record in enumerate(records):
        where = f"{path}: pair {number}"
        if not (isinstance(record, list) and len(record) == 2):
            raise RecipeError(f"{where}: not a list of two")
        target, source = record
        pairs.append(
            TextPair(
                source=_text(source, "prompt", where),
                target=_text(target, "prompt", where),
                source_tokens=_count(source, where),
                target_tokens=_count(target, where),
            )
        )
    return tuple(pairs)


def _text(record: Any, key: str, where: str) -> str:
    value = record.get(key) if isinstance(record, dict) else None
    if not isinstance(value, str) or not value.strip():
        raise RecipeError(f"{where}: {key!r} has value {value!r}; a text is needed")
    return value


def _count(record: dict[str, Any], where: str) -> int:
    value = record.get("tokens", 0)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 256:
        raise RecipeError(f"{where}: 'tokens' has value {value!r}; 0 to 256 is needed")
    return value


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise NotFoundError(f"{str(path)!r} does not exist") from error
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{str(path)!r} cannot be read: {error}") from error
