"""Reads the data files that a recipe names; what is wrong is told with file, line and value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llamacart.errors import RecipeError
from llamacart.file.texts import shown
from llamacart.values.near import did_you_mean
from llamacart_trainer.recipe.foreign import COLUMNS, kind_of, translated
from llamacart_trainer.recipe.lines import Records, parse_json, read_file, read_lines
from llamacart_trainer.recipe.pairing import check_suffix

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

MAX_GENERATED = 256
"""Most tokens that a recipe may let the model append to a text."""

_SHOWN_KEYS = 8


@dataclass(frozen=True)
class Form:
    """Keys that make one kind of record.

    Attributes:
        required: Keys that it has.
        optional: Keys that it may have.
    """

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()

    def __str__(self) -> str:
        keys = [f'"{key}"' for key in self.required] + [f'"{key}"?' for key in self.optional]
        return f"{{{', '.join(keys)}}}"


PAIR = Form(("source", "target"))
CONTEXT_PAIR = Form(("context", "text"))
TEXT = Form(("text",))
PROMPT = Form(("prompt",), ("reference",))
ANSWER = Form(("prompt", "target", "original"), ("neutral",))
PAPER = Form(("prompt",), ("tokens",))

_OURS = frozenset(
    key
    for form in (PAIR, CONTEXT_PAIR, TEXT, PROMPT, ANSWER, PAPER)
    for key in (*form.required, *form.optional)
)
"""Keys that mean something in some form, and so must not be passed over in another."""

_COLUMNS = _OURS | COLUMNS
"""Names by which the columns of a table are known."""


class FileText(str):
    """A text that knows where it was read.

    Args:
        text: The text.
        where: `file:line`.
    """

    __slots__ = ("where",)
    where: str

    def __new__(cls, text: str, where: str = "") -> FileText:
        """See the class."""
        self = super().__new__(cls, text)
        self.where = where
        return self


def where_of(text: str, otherwise: str) -> str:
    """Where a text was read, for messages; `otherwise` names one that is from no file."""
    return text.where if isinstance(text, FileText) else otherwise


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


def read_pairs(path: Path, *, suffix: bool = False) -> tuple[TextPair, ...]:
    """Read a file of `{"source", "target"}` or `{"context", "text"}` objects.

    The latter is short for source = text, target = context + text, so that a context ends in
    whatever is to stand between it and the text.

    Args:
        path: The file.
        suffix: Refuse pairs of which neither text ends in the other.

    Raises:
        NotFoundError: There is no such file.
        RecipeError: A line cannot be used, or there is none.
    """
    pairs = []
    for where, record in read_records(path, PAIR, CONTEXT_PAIR):
        if check_form(record, (PAIR, CONTEXT_PAIR), where) is CONTEXT_PAIR:
            text = text_of(record, "text", where)
            source, target = text, FileText(text_of(record, "context", where) + text, where)
        else:
            source, target = text_of(record, "source", where), text_of(record, "target", where)
        if suffix:
            check_suffix(source, target, where)
        pairs.append(TextPair(source, target))
    if not pairs:
        raise RecipeError(f"{path}: no pairs")
    return tuple(pairs)


def read_texts(path: Path) -> tuple[str, ...]:
    """Read a file of `{"text"}` objects.

    Raises:
        NotFoundError: There is no such file.
        RecipeError: A line cannot be used, or there is none.
    """
    return read_values(path, TEXT, "texts")


def read_values(path: Path, form: Form, what: str) -> tuple[str, ...]:
    """The texts under the one key that the records of a file must have.

    Args:
        path: The file.
        form: Form of its records, with one required key.
        what: What they are, for the message where there is none.

    Raises:
        NotFoundError: There is no such file.
        RecipeError: A line cannot be used, or there is none.
    """
    (key,) = form.required
    values = []
    for where, record in read_records(path, form):
        check_form(record, (form,), where)
        values.append(text_of(record, key, where))
    if not values:
        raise RecipeError(f"{path}: no {what}")
    return tuple(values)


def read_records(path: Path, *forms: Form) -> Records:
    """The records of a file, each with a `file:line` for messages; see `read_lines`.

    Args:
        path: The file.
        forms: What is understood at this place; data of another tool is brought into one of them
            where it is clear what it means, see `translated`.

    Raises:
        NotFoundError: There is no such file.
        RecipeError: It cannot be read, or a line is no record.
    """
    wanted = [form.required for form in forms]
    columns = _COLUMNS.union(*((*form.required, *form.optional) for form in forms))
    return [
        (where, translated(record, wanted, where)) for where, record in read_lines(path, columns)
    ]


def read_paper_pairs(path: Path) -> tuple[TextPair, ...]:
    """Read `[[{"prompt", "tokens"} target, {"prompt", "tokens"} source], …]`.

    Raises:
        NotFoundError: There is no such file.
        RecipeError: A pair cannot be used, or there is none.
    """
    records = parse_json(read_file(path), str(path))
    if not isinstance(records, list) or not records:
        raise RecipeError(f"{path}: not a list of [target, source] pairs")
    pairs = []
    for number, record in enumerate(records):
        where = f"{path}: pair {number}"
        if not (isinstance(record, list) and len(record) == 2):
            raise RecipeError(f"{where}: not a list of two")
        for side in record:
            if not isinstance(side, dict):
                raise RecipeError(f"{where}: {shown(side)} is not an object")
            check_form(side, (PAPER,), where)
        target, source = record
        pairs.append(
            TextPair(
                source=text_of(source, "prompt", where),
                target=text_of(target, "prompt", where),
                source_tokens=_count(source, where),
                target_tokens=_count(target, where),
            )
        )
    return tuple(pairs)


def check_form(record: dict[str, Any], forms: tuple[Form, ...], where: str) -> Form:
    """Which of some forms a record has; `where` begins the message.

    Keys that have a meaning nowhere (an id, a note) are passed over. Those of another form are
    refused, and so are those that look like a slip in one.

    Raises:
        RecipeError: It has none of them; the message names the keys found and those wanted.
    """
    for form in forms:
        keys = {*form.required, *form.optional}
        if record.keys() >= set(form.required) and keys >= record.keys() & _OURS:
            for key in record.keys() - keys:
                near = did_you_mean(key, keys, cutoff=0.8)
                if near:
                    raise RecipeError(f"{where}: there is no key {key!r}{near}")
            return form
    foreign = kind_of(record)
    kind = "" if foreign is None else f" ({foreign} data)"
    wanted = " or ".join(map(str, forms))
    hint = ""
    if "prompt" in record and PAIR in forms:
        hint = '; for a message with two answers, say format = "chat" in recipe.toml'
    raise RecipeError(f"{where}: found {_listed(record)}{kind}; {wanted} is needed{hint}")


def text_of(record: dict[str, Any], key: str, where: str) -> FileText:
    """The text under a key; `where` begins the message.

    Raises:
        RecipeError: It is missing, is no text, is blank, or holds what no tokeniser can read.
    """
    value = record.get(key)
    if not isinstance(value, str) or not value.strip():
        raise RecipeError(f"{where}: {key!r} has value {shown(value)}; a text is needed")
    fault = unreadable(value)
    if fault:
        raise RecipeError(f"{where}: {key!r} {fault}")
    return FileText(value, where)


def unreadable(text: str) -> str:
    """What a text holds that no tokeniser can read, for messages; empty where there is nothing."""
    for number, character in enumerate(text):
        if "\ud800" <= character <= "\udfff":
            before = shown(text[max(0, number - 20) : number])
            return f"holds half of a character (\\u{ord(character):04x}) after {before}"
        if character == "\0":
            return "holds a null character (\\u0000)"
    return ""


def _listed(keys: Iterable[str]) -> str:
    names = sorted(keys)
    if not names:
        return "no keys"
    text = ", ".join(shown(name) for name in names[:_SHOWN_KEYS])
    more = ", …" if len(names) > _SHOWN_KEYS else ""
    return f"the key{'s' if len(names) > 1 else ''} {text}{more}"


def _count(record: dict[str, Any], where: str) -> int:
    value = record.get("tokens", 0)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_GENERATED:
        raise RecipeError(
            f"{where}: 'tokens' has value {shown(value)}; 0 to {MAX_GENERATED} is needed"
        )
    return value
