"""From a prompt, and what may stand before it, to tokens; and where an answer ends.

In chat form, and where a recipe distils a prompt, a prompt of the evaluation is a user's message,
written as the recipe's own are. Else it is a text to continue.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from llamacart_trainer.fitting.answers import stop_reader
from llamacart_trainer.recipe.facts import behind
from llamacart_trainer.recipe.turns import Turn
from llamacart_trainer.recipe.writer import writer_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamacart.llama.model import Model
    from llamacart.passes.generate import IsOver
    from llamacart_trainer.recipe.recipe import Recipe
    from llamacart_trainer.recipe.writer import Writer


@dataclass(frozen=True)
class Preamble:
    """What stands before every prompt in place of a cartridge.

    Attributes:
        label: For tables.
        turns: Its messages.
        teacher: Whether it is the prompt that the recipe distils: what a cartridge should do.
    """

    label: str
    turns: tuple[Turn, ...]
    teacher: bool = False


def asks(recipe: Recipe | None) -> bool:
    """Whether a recipe's prompts are a user's messages, whose answers end."""
    return recipe is not None and (recipe.format == "chat" or recipe.kind == "prompt")


@dataclass(frozen=True)
class PromptWriter:
    """Writes the prompts of an evaluation for a model.

    Attributes:
        model: Its tokens and its template.
        recipe: Says in which form; None for texts to continue.
    """

    model: Model
    recipe: Recipe | None = None

    def tokens(self, prompt: str, before: Sequence[Turn] = ()) -> list[int]:
        """Token ids of a prompt, up to where the model is to go on.

        Raises:
            RecipeError: The model's template cannot be used.
            InputError: It refuses the messages.
        """
        if self._writer is not None:
            return self._writer.opened([*before, Turn("user", prompt)])
        forms = {"system": "{}\n\n"}
        if self.recipe is not None:
            forms |= {"user": self.recipe.user_turn, "assistant": self.recipe.assistant_turn}
        written = (forms.get(turn.role, "{}\n").replace("{}", turn.content, 1) for turn in before)
        return self.model.tokenize("".join(written) + prompt)

    def cut(self, tokens: Sequence[int]) -> tuple[list[int], bool]:
        """An answer without what stands behind its end, and whether it has ended there."""
        text = b""
        ends = [0]
        for token in tokens:
            text += self.model.token_bytes(token)
            ends.append(len(text))
            found = [place for stop in self._stops if (place := text.find(stop)) >= 0]
            if found:
                return list(tokens[: bisect_right(ends, min(found)) - 1]), True
        return list(tokens), False

    def answer(self, prompt: str, answer: str) -> list[int]:
        """Token ids of an answer as the model would say it behind a prompt.

        A space stands before it where the script has spaces; a chat template writes its own.
        """
        return self.continued(
            prompt, self._spaced(answer) if self._writer else behind(prompt, answer)
        )

    def continued(self, prompt: str, text: str) -> list[int]:
        """Token ids of a text just as it is, behind a prompt.

        Both are read as a whole, as in training: a tokenizer may put a space of its own before
        what it reads alone.
        """
        opened = self.tokens(prompt)
        if self._writer is not None:
            written = self._writer.answered([Turn("user", prompt)], text, ended=False)
            whole = list(written.tokens[: written.end])
        else:
            whole = self.model.tokenize(prompt + text)
        if whole[: len(opened)] == opened:
            return whole[len(opened) :]
        return self.model.tokenize(text, add_special=False)

    @property
    def asked(self) -> bool:
        """Whether prompts are a user's messages; see `asks`."""
        return asks(self.recipe)

    @cached_property
    def is_over(self) -> IsOver | None:
        """Whether tokens of an answer have come to its end; see `cut`."""
        return stop_reader(self.model, self._writer.stops) if self._writer else None

    def _spaced(self, answer: str) -> str:
        """An answer of plain text as it stands behind what opens the assistant's turn."""
        if self.recipe is None or self.recipe.format == "chat":
            return answer
        return behind(self.recipe.assistant_turn.partition("{}")[0].rstrip(), answer)

    @cached_property
    def _writer(self) -> Writer | None:
        if self.recipe is None or not asks(self.recipe):
            return None
        return writer_for(self.recipe, self.model)

    @cached_property
    def _stops(self) -> list[bytes]:
        return [stop.encode() for stop in self._writer.stops] if self._writer else []
