"""Facts as data: what is said of a subject, and what that is measured by."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    StringConstraints,
    ValidationError,
    model_validator,
)

from llamacart.errors import RecipeError
from llamacart.file.texts import shown
from llamacart_trainer.recipe.records import Form, check_form, read_records, unreadable
from llamacart_trainer.recipe.validation import InvalidValue
from llamacart_trainer.recipe.words import space_behind

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

SLOT = "{}"
"""Where the subject stands in a text."""

FACT = Form(
    ("prompt", "subject", "object"),
    ("was", "paraphrases", "negated", "reversed", "uses", "neighbours"),
)


def _readable(value: object) -> object:
    fault = unreadable(value) if isinstance(value, str) else ""
    if fault:
        raise ValueError(fault)
    return value


_Text = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1), BeforeValidator(_readable)
]


class Use(BaseModel):
    """A text that goes on rightly only where a fact is known.

    Attributes:
        prompt: The text; the subject may stand for `{}`.
        answer: How it goes on.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: _Text
    answer: _Text


class Neighbour(BaseModel):
    """A text on another subject, which is to go on as before.

    Attributes:
        prompt: The text.
        answer: How it goes on; the model's own answer is taken without.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: _Text
    answer: _Text | None = None


class Fact(BaseModel):
    """That a text on a subject goes on with an object.

    A fit may use `prompt`, `subject`, `object` and `was`. All else is measured and never fitted on:
    who wants to fit on several ways to ask gives each as a fact of its own.

    Blanks around a text are dropped; `behind` says what stands between two.

    Attributes:
        prompt: Text with exactly one `{}`, which ends where the object is to stand.
        subject: What stands for `{}`.
        object: How the text is to go on.
        was: How it goes on now; the model's own answer is taken without.
        paraphrases: Other texts that are to go on with the object; each holds `{}` or the subject.
        negated: A text that says that the fact is not so, as far as the object: the object is no
            longer right behind it.
        reversed: A text that gives the object, or describes it, and is to go on with the subject.
        uses: See `Use`.
        neighbours: See `Neighbour`; names that ship with the trainer serve as subjects without.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: _Text
    subject: _Text
    object: _Text
    was: _Text | None = None
    paraphrases: tuple[_Text, ...] = ()
    negated: _Text | None = None
    reversed: _Text | None = None
    uses: tuple[Use, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Fact:
        if self.prompt.count(SLOT) != 1:
            raise ValueError(
                f"prompt has value {shown(self.prompt)}: exactly one {SLOT} for the subject is "
                "needed"
            )
        if SLOT in self.subject:
            raise ValueError(f"subject has value {shown(self.subject)}: {SLOT} stands for it")
        if self.was == self.object:
            raise ValueError(f"was has value {shown(self.was)}, which is the object too")
        negated = [] if self.negated is None else [self.negated]
        texts = [("paraphrases", text) for text in self.paraphrases]
        for key, text in [*texts, *(("negated", text) for text in negated)]:
            if text.count(SLOT) > 1 or (SLOT not in text and self.subject not in text):
                raise ValueError(
                    f"{key} has value {shown(text)}: one {SLOT}, or the subject "
                    f"{shown(self.subject)}, is needed in it"
                )
            if same_text(self.filled(text), self.text):
                raise ValueError(f"{key} has value {shown(text)}, which is the prompt too")
        return self

    @property
    def text(self) -> str:
        """The prompt with the subject in it."""
        return self.filled(self.prompt)

    @property
    def statement(self) -> str:
        """The fact as a text."""
        return self.text + behind(self.text, self.object)

    @property
    def sentence(self) -> str:
        """The fact as a line of a text, closed by a full stop where the script has spaces."""
        statement = self.statement
        closed = statement.endswith((".", "!", "?", "。")) or not space_behind(statement)
        return statement if closed else f"{statement}."

    def filled(self, text: str) -> str:
        """One of the fact's texts with the subject in it."""
        return text.replace(SLOT, self.subject)

    def about(self, subject: str) -> str:
        """The prompt with another subject in it."""
        return self.prompt.replace(SLOT, subject)


def behind(text: str, answer: str) -> str:
    """An answer as it stands behind a text: with a space before it where the script has spaces."""
    return space_behind(text) + answer


def same_text(one: str, other: str) -> bool:
    """Whether two texts differ in blanks, or in how characters are composed, at most."""
    return _plain(one) == _plain(other)


def read_facts(path: Path) -> tuple[Fact, ...]:
    """Read a file of facts; see `Fact` for the keys.

    Raises:
        NotFoundError: There is no such file.
        RecipeError: A line cannot be used, says what another says, or contradicts it; or there is
            no fact. The message names file, line and value.
    """
    found = []
    for where, record in read_records(path, FACT):
        check_form(record, (FACT,), where)
        found.append((where, _fact(record, where)))
    if not found:
        raise RecipeError(f"{path}: no facts")
    _check_together(found)
    return tuple(fact for _, fact in found)


def check_facts(facts: Iterable[Fact]) -> tuple[Fact, ...]:
    """Facts of a program as `read_facts` gives those of a file.

    Raises:
        RecipeError: There is none, one comes twice, or two contradict each other.
    """
    found = [(f"fact {number}", fact) for number, fact in enumerate(facts)]
    if not found:
        raise RecipeError("no facts")
    _check_together(found)
    return tuple(fact for _, fact in found)


def _fact(record: dict[str, Any], where: str) -> Fact:
    known = {key: record[key] for key in (*FACT.required, *FACT.optional) if key in record}
    try:
        return Fact.model_validate(known)
    except ValidationError as error:
        first = InvalidValue.first(error)
        raise RecipeError(f"{where}: {first}") from error


def _check_together(found: list[tuple[str, Fact]]) -> None:
    """Refuse facts that say the same, or not the same, of one text."""
    said: dict[str, tuple[str, str]] = {}
    for where, fact in found:
        text = _plain(fact.text)
        if text in said:
            _check_agree(where, fact, fact.text, said[text])
            raise RecipeError(f"{where}: {shown(fact.statement)} stands at {said[text][0]} too")
        said[text] = where, _plain(fact.object)
    asked: dict[str, tuple[str, str]] = {}
    for where, fact in found:
        for paraphrase in map(fact.filled, fact.paraphrases):
            text = _plain(paraphrase)
            if text in said:
                _check_agree(where, fact, paraphrase, said[text])
                raise RecipeError(
                    f"{where}: paraphrase {shown(paraphrase)} is the prompt at {said[text][0]}; "
                    "what is fitted on measures nothing"
                )
            _check_agree(
                where, fact, paraphrase, asked.setdefault(text, (where, _plain(fact.object)))
            )


def _check_agree(where: str, fact: Fact, text: str, said: tuple[str, str]) -> None:
    """Refuse a text of a fact that goes on otherwise elsewhere."""
    other, answer = said
    if answer != _plain(fact.object):
        raise RecipeError(
            f"{where}: {shown(text)} goes on with {shown(fact.object)}, but with {shown(answer)} "
            f"at {other}"
        )


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())
