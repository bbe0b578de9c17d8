"""Answers on disk as they come, so that a killed run goes on where it was.

The first line says what the answers are of; each other line holds one. A line that a kill has cut
off is dropped.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Any

from llamacart.disk.whole import write_whole
from llamacart.errors import InputError, RecipeError
from llamacart_trainer.recipe.lines import parse_json
from llamacart_trainer.recipe.records import check_form
from llamacart_trainer.recipe.turns import EXCHANGE, Exchange

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

OF = "answers of"


class KeptAnswers:
    """A file of answers that grows.

    Args:
        path: The file; made with the first answers.
        facts: What the answers depend on, as JSON.

    Raises:
        InputError: The file holds answers of something else, or is no such file.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        self.path = path
        text = json.dumps(facts, sort_keys=True, ensure_ascii=False)
        self._head = json.dumps({OF: hashlib.sha256(text.encode()).hexdigest()})
        self._answers: dict[str, Exchange] = {}
        try:
            # Not `splitlines`: texts may hold other separators of lines.
            *whole, torn = path.read_text(encoding="utf-8").split("\n")
        except FileNotFoundError:
            return
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"answers {str(path)!r} cannot be read: {error}") from error
        if whole and whole[0] != self._head:
            raise InputError(
                f"{str(path)!r} holds answers of another prompt, model or length; remove it to "
                "begin anew"
            )
        try:
            self._keep(self._read(line, number) for number, line in enumerate(whole[1:], start=2))
        except RecipeError as error:
            raise InputError(f"{error.message}; remove the file to begin anew") from error
        if torn:
            self._write()

    def __len__(self) -> int:
        return len(self._answers)

    def missing(self, prompts: Iterable[str]) -> list[str]:
        """The messages that have no answer yet, each once."""
        return [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._answers]

    def of(self, prompts: Iterable[str]) -> list[Exchange]:
        """The answers to some messages, which all have one."""
        return [self._answers[prompt] for prompt in prompts]

    def add(self, answers: Iterable[Exchange]) -> None:
        """Keep more answers, on disk before this returns.

        Raises:
            InputError: They cannot be written.
        """
        new = list(answers)
        first = not self._answers
        self._keep(new)
        self._write(None if first else new)

    def _keep(self, answers: Iterable[Exchange]) -> None:
        self._answers.update((answer.prompt, answer) for answer in answers)

    def _write(self, more: Iterable[Exchange] | None = None) -> None:
        """Write all answers, or put some behind those that are there."""
        try:
            if more is None:
                lines = "".join(map(_line, self._answers.values()))
                write_whole(self.path, f"{self._head}\n{lines}")
                return
            with self.path.open("a", encoding="utf-8") as file:
                file.write("".join(map(_line, more)))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise InputError(f"answers {str(self.path)!r} cannot be written: {error}") from error

    def _read(self, line: str, number: int) -> Exchange:
        where = f"{self.path}:{number}"
        record = parse_json(line, where)
        if not isinstance(record, dict):
            raise RecipeError(f"{where}: not an object")
        check_form(record, (EXCHANGE,), where)
        prompt, text = record["prompt"], record["text"]
        if not isinstance(prompt, str) or not isinstance(text, str):  # an answer may be blank
            raise RecipeError(f"{where}: message and answer are to be texts")
        return Exchange(prompt, text, record.get("ended") is True)


def _line(answer: Exchange) -> str:
    record = {"prompt": answer.prompt, "text": answer.text, "ended": answer.ended}
    return json.dumps(record, ensure_ascii=False) + "\n"


def count_kept(path: Path) -> int:
    """How many answers a file of `KeptAnswers` holds; 0 where there is none."""
    try:
        return max(0, path.read_bytes().count(b"\n") - 1)
    except OSError:
        return 0
