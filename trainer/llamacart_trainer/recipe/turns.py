"""Conversations as data files hold them: turns, pairs of conversations, questions answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from llamacart.errors import RecipeError
from llamacart.file.texts import shown
from llamacart.values.near import did_you_mean
from llamacart_trainer.recipe.records import Form, check_form, read_records, text_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Role = Literal["system", "user", "assistant"]

TURN = Form(("role", "content"))
CHAT_PAIR = Form(("prompt", "source", "target"), ("system",))
LONG_PAIR = Form(("messages", "source", "target"))
EXCHANGE = Form(("prompt", "text"), ("ended",))
TEXT = Form(("text",))


@dataclass(frozen=True)
class Turn:
    """One message of a conversation.

    Attributes:
        role: Who speaks.
        content: What is said.
    """

    role: Role
    content: str

    @property
    def as_dict(self) -> dict[str, str]:
        """The message as chat templates take it."""
        return {"role": self.role, "content": self.content}


@dataclass(frozen=True)
class ChatPair:
    """A conversation whose last answer is in the model's own manner, and as it is wanted.

    Attributes:
        source: Turns before the source's answer, at least one.
        source_answer: What the assistant says there.
        target: Turns before the target's answer: the same as the source's, or with more in front.
        target_answer: What the assistant is to say.
    """

    source: tuple[Turn, ...]
    source_answer: str
    target: tuple[Turn, ...]
    target_answer: str

    @property
    def as_json(self) -> list[Any]:
        """All of it, for a digest."""
        sides = (self.source, self.source_answer), (self.target, self.target_answer)
        return [[[[t.role, t.content] for t in turns], answer] for turns, answer in sides]


@dataclass(frozen=True)
class Exchange:
    """A user's message and the assistant's answer.

    Attributes:
        prompt: The message.
        text: The answer.
        ended: Whether the assistant's turn ends there; else it was cut.
    """

    prompt: str
    text: str
    ended: bool = True


def read_turns(path: Path) -> tuple[Turn, ...]:
    """Read a file of `{"role", "content"}` objects: one conversation, a turn a line.

    Raises:
        NotFoundError: There is no such file.
        RecipeError: A line cannot be used, or there is none.
    """
    turns = tuple(_turn(record, where) for where, record in read_records(path, TURN))
    if not turns:
        raise RecipeError(f"{path}: no turns")
    return turns


def read_chat_pairs(path: Path, *, suffix: bool = False) -> tuple[ChatPair, ...]:
    """Read a file of pairs of conversations, in any of three forms.

    - `{"prompt", "source", "target", "system"?}`: a user's message and both answers to it.
    - `{"messages", "source", "target"}`: the same after several turns.
    - `{"source", "target"}`: two whole conversations, each a list of `{"role", "content"}` that
      ends in the assistant's answer.

    Args:
        path: The file.
        suffix: Refuse pairs whose answers differ.

    Raises:
        NotFoundError: There is no such file.
        RecipeError: A line cannot be used, or there is none.
    """
    pairs = []
    for where, record in read_records(path, CHAT_PAIR, LONG_PAIR):
        pair = _pair(record, where)
        if suffix:
            check_same_answer(pair, where)
        pairs.append(pair)
    if not pairs:
        raise RecipeError(f"{path}: no pairs")
    return tuple(pairs)


def read_exchanges(path: Path) -> tuple[Exchange, ...]:
    """Read a file of `{"prompt", "text", "ended"?}` objects.

    Raises:
        NotFoundError: There is no such file.
        RecipeError: A line cannot be used, or there is none.
    """
    found = []
    for where, record in read_records(path, EXCHANGE):
        check_form(record, (EXCHANGE,), where)
        found.append(_exchange(record, where))
    if not found:
        raise RecipeError(f"{path}: no answers")
    return tuple(found)


def read_neutral(path: Path) -> tuple[tuple[str, ...], tuple[Exchange, ...]]:
    """Read a file of `{"text"}` and `{"prompt", "text"}` objects: texts, and turns.

    Raises:
        NotFoundError: There is no such file.
        RecipeError: A line cannot be used, or there is none.
    """
    texts, exchanges = [], []
    for where, record in read_records(path, TEXT, EXCHANGE):
        if check_form(record, (TEXT, EXCHANGE), where) is TEXT:
            texts.append(text_of(record, "text", where))
        else:
            exchanges.append(_exchange(record, where))
    if not texts and not exchanges:
        raise RecipeError(f"{path}: no texts")
    return tuple(texts), tuple(exchanges)


def check_same_answer(pair: ChatPair, where: str) -> None:
    """Refuse two conversations that `suffix` cannot compare; `where` begins the message.

    Raises:
        RecipeError: Their answers differ, or nothing else does.
    """
    needed = f"{where}: pairing 'suffix' needs the same answer behind two conversations"
    if pair.source_answer != pair.target_answer:
        raise RecipeError(
            f"{needed}; source ends in {shown(pair.source_answer)} and target in "
            f"{shown(pair.target_answer)}"
        )
    if pair.source == pair.target:
        raise RecipeError(f"{needed}; all turns before it are the same")


def check_turns(turns: Sequence[Turn], where: str) -> None:
    """Refuse turns that no answer can follow; `where` begins the message.

    Raises:
        RecipeError: There is none, or the last is not the user's.
    """
    if not turns or turns[-1].role != "user":
        last = f"the last is of the {turns[-1].role}" if turns else "there is none"
        raise RecipeError(f"{where}: the turn before an answer is the user's; {last}")


def _pair(record: dict[str, Any], where: str) -> ChatPair:
    if isinstance(record.get("source"), list) or isinstance(record.get("target"), list):
        source, target = (_conversation(record, side, where) for side in ("source", "target"))
        return ChatPair(*source, *target)
    form = check_form(record, (CHAT_PAIR, LONG_PAIR), where)
    twice = [key for key in ("prompt", "system") if key in record and "messages" in record]
    if twice:
        raise RecipeError(f"{where}: {twice[0]!r} and 'messages' are both given; keep one")
    if form is CHAT_PAIR:
        turns = [Turn("user", text_of(record, "prompt", where))]
        if record.get("system") is not None:
            turns.insert(0, Turn("system", text_of(record, "system", where)))
    else:
        turns = _turns(record, "messages", where)
    check_turns(turns, where)
    answers = (text_of(record, side, where) for side in ("source", "target"))
    before = tuple(turns)
    return ChatPair(before, next(answers), before, next(answers))


def _conversation(record: dict[str, Any], key: str, where: str) -> tuple[tuple[Turn, ...], str]:
    """The turns before the last answer, and that."""
    *turns, last = _turns(record, key, where)
    if last.role != "assistant":
        raise RecipeError(f"{where}: {key!r} ends in a turn of the {last.role}, not in an answer")
    check_turns(turns, f"{where}: {key!r}")
    return tuple(turns), last.content


def _turns(record: dict[str, Any], key: str, where: str) -> list[Turn]:
    value = record.get(key)
    if not isinstance(value, list) or not value:
        raise RecipeError(f"{where}: {key!r} has value {shown(value)}; a list of turns is needed")
    return [_turn(item, f"{where}: turn {n} of {key!r}") for n, item in enumerate(value)]


def _turn(record: object, where: str) -> Turn:
    if not isinstance(record, dict):
        raise RecipeError(f"{where}: {shown(record)} is not an object")
    check_form(record, (TURN,), where)
    role = record["role"]
    if role not in get_args(Role):
        raise RecipeError(
            f"{where}: 'role' has value {shown(role)}; {', '.join(get_args(Role))} are known"
            f"{did_you_mean(role, get_args(Role))}"
        )
    return Turn(cast("Role", role), text_of(record, "content", where))


def _exchange(record: dict[str, Any], where: str) -> Exchange:
    ended = record.get("ended", True)
    if not isinstance(ended, bool):
        raise RecipeError(f"{where}: 'ended' has value {shown(ended)}; true or false is needed")
    return Exchange(text_of(record, "prompt", where), text_of(record, "text", where), ended)
