"""Data in the form of other tools, read where it is clear what it means here.

| form | a record | is read as |
|---|---|---|
| chat (OpenAI) | `{"messages": [{"role", "content"}, …]}` | a conversation |
| ShareGPT | `{"conversations": [{"from", "value"}, …]}` | a conversation |
| Alpaca | `{"instruction", "input"?, "output"}` | a conversation of one message |
| completion | `{"prompt", "completion"}`, texts or lists of messages | a conversation |
| preference | `{"prompt"?, "chosen", "rejected"}`, texts or lists of messages | a pair |

A pair needs an answer as it is and as it should be. A preference has both: what was rejected is
the source, what was chosen the target. The others have one answer, so that they serve as user
messages, and as answers that stay, but not as pairs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llamacart.errors import RecipeError
from llamacart.file.texts import shown
from llamacart.values.near import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Collection

Message = dict[str, str]

SPEAKERS = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
}
"""Who speaks, by the names that other tools have for them."""

KEYS = {
    "chosen": "preference",
    "conversations": "ShareGPT",
    "messages": "chat",
    "instruction": "Alpaca",
    "completion": "completion",
}
"""Key by which data of another tool is known, and what people call that form."""

COLUMNS = frozenset(
    {"instruction", "input", "output", "prompt", "completion", "chosen", "rejected", "system"}
)
"""Names of columns that a table in such a form may have."""


def kind_of(record: dict[str, Any]) -> str | None:
    """What people call the form of another tool that a record has; None for our own."""
    if {"source", "target"} & record.keys():
        return None
    return next((KEYS[key] for key in KEYS if key in record), None)


def translated(
    record: dict[str, Any], wanted: Collection[tuple[str, ...]], where: str
) -> dict[str, Any]:
    """A record of another tool in one of the forms that are wanted; our own as they are.

    Args:
        record: The record.
        wanted: Required keys of each form that is understood at this place.
        where: `file:line`, for messages.

    Raises:
        RecipeError: It cannot be understood, or holds nothing that serves here.
    """
    kind = kind_of(record)
    ours = any(record.keys() >= set(form) for form in wanted)
    if kind is None or (ours and not isinstance(record.get("prompt"), list)):
        return record
    if kind == "preference":
        if not any({"source", "target"} <= set(form) for form in wanted):
            return _as_prompt(_preferred(record, where)[0], wanted, record, where)
        return _as_pair(record, wanted, where)
    turns = _conversation(record, kind, where)
    if any({"source", "target"} <= set(form) for form in wanted):
        raise RecipeError(
            f"{where}: found {kind} data, which has one answer; a pair needs two: the answer as "
            'the model gives it ("source") and as it should be ("target"). Add the former, or '
            'let the model answer behind a prompt: kind = "prompt" with this file as questions'
        )
    if ("prompt", "text") in wanted and [turn["role"] for turn in turns] == ["user", "assistant"]:
        return {"prompt": turns[0]["content"], "text": turns[1]["content"]}
    return _as_prompt(turns, wanted, record, where)


def _as_pair(
    record: dict[str, Any], wanted: Collection[tuple[str, ...]], where: str
) -> dict[str, Any]:
    before, rejected, chosen = _preferred(record, where)
    answers = {"source": rejected, "target": chosen}
    if not before:
        return answers
    if ("prompt", "source", "target") not in wanted:
        raise RecipeError(
            f"{where}: found preference data: a user's message with two answers; say "
            'format = "chat" in recipe.toml'
        )
    roles = [turn["role"] for turn in before]
    if roles in (["user"], ["system", "user"]):
        system = {"system": before[0]["content"]} if len(before) > 1 else {}
        return {**system, "prompt": before[-1]["content"], **answers}
    return {"messages": before, **answers}


def _preferred(record: dict[str, Any], where: str) -> tuple[list[Message], Any, Any]:
    """The turns before, and the answer that was rejected and the one that was chosen."""
    sides = [record.get(key) for key in ("rejected", "chosen")]
    if all(isinstance(side, list) for side in sides):
        rejected, chosen = (_messages(record, key, where) for key in ("rejected", "chosen"))
        before = _before(record, where)
        if before:  # the sides hold the answer alone, or the conversation once more
            return before, rejected[-1]["content"], chosen[-1]["content"]
        if rejected[:-1] == chosen[:-1] and len(chosen) > 1:
            return chosen[:-1], rejected[-1]["content"], chosen[-1]["content"]
        return [], rejected, chosen
    for key, side in zip(("rejected", "chosen"), sides, strict=True):
        if not isinstance(side, str):
            raise RecipeError(f"{where}: {key!r} has value {shown(side)}; a text is needed")
    return _before(record, where), sides[0], sides[1]


def _before(record: dict[str, Any], where: str) -> list[Message]:
    """The turns that `prompt` holds, a text or a list of messages; with the system text."""
    prompt = record.get("prompt")
    if prompt is None:
        return []
    if isinstance(prompt, list):
        return _messages(record, "prompt", where)
    turns = [{"role": "user", "content": _text(record, "prompt", where)}]
    if record.get("system"):
        turns.insert(0, {"role": "system", "content": _text(record, "system", where)})
    return turns


def _as_prompt(
    turns: list[Message],
    wanted: Collection[tuple[str, ...]],
    record: dict[str, Any],
    where: str,
) -> dict[str, Any]:
    """The first user's message of a conversation, where that is what is wanted."""
    if ("prompt",) not in wanted:
        return record  # refused with what was found and what is needed
    first = next((turn["content"] for turn in turns if turn["role"] == "user"), None)
    if first is None:
        raise RecipeError(f"{where}: found {kind_of(record)} data without a user's message")
    return {"prompt": first}


def _conversation(record: dict[str, Any], kind: str, where: str) -> list[Message]:
    if kind in ("chat", "ShareGPT"):
        return _messages(record, "messages" if kind == "chat" else "conversations", where)
    if kind == "completion":
        answer = record["completion"]
        last = (
            _messages(record, "completion", where)
            if isinstance(answer, list)
            else [{"role": "assistant", "content": _text(record, "completion", where)}]
        )
        return [*_before(record, where), *last]
    message = _text(record, "instruction", where)
    if record.get("input"):
        message = f"{message}\n\n{_text(record, 'input', where)}"
    answer = _text(record, "output", where)
    return [{"role": "user", "content": message}, {"role": "assistant", "content": answer}]


def _messages(record: dict[str, Any], key: str, where: str) -> list[Message]:
    value = record[key]
    if not isinstance(value, list) or not value:
        raise RecipeError(f"{where}: {key!r} has value {shown(value)}; a list of turns is needed")
    return [_message(item, f"{where}: turn {n} of {key!r}") for n, item in enumerate(value)]


def _message(value: object, where: str) -> Message:
    if not isinstance(value, dict):
        raise RecipeError(f"{where}: {shown(value)} is not an object")
    name = value.get("role", value.get("from"))
    role = SPEAKERS.get(name.lower()) if isinstance(name, str) else None
    if role is None:
        raise RecipeError(
            f"{where}: the speaker has value {shown(name)}; {', '.join(SPEAKERS)} are known"
            f"{did_you_mean(name, SPEAKERS)}"
        )
    content = value.get("content", value.get("value"))
    if isinstance(content, list) and all(
        isinstance(part, dict) and isinstance(part.get("text"), str) for part in content
    ):
        content = "".join(part["text"] for part in content)
    return {"role": role, "content": _text({"content": content}, "content", where)}


def _text(record: dict[str, Any], key: str, where: str) -> str:
    value = record.get(key)
    if not isinstance(value, str) or not value.strip():
        raise RecipeError(f"{where}: {key!r} has value {shown(value)}; a text is needed")
    return value
