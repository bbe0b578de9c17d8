"""From conversations to tokens: by the model's own chat template, or as plain text.

Both write what stands before an answer exactly as it is read at run time, and an answer right
behind it, as the model itself would have gone on.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from llamacart.chat.templates import choose_template
from llamacart.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamacart.chat.templates import ChatTemplate, EndingVocabulary
    from llamacart.llama.model import Model
    from llamacart_trainer.recipe.recipe import Recipe
    from llamacart_trainer.recipe.turns import Turn


@dataclass(frozen=True)
class Written:
    """Tokens of a conversation with its last answer.

    Attributes:
        tokens: Token ids.
        start: Where the answer begins.
        end: Where what ends its turn begins; the number of tokens where its turn goes on.
    """

    tokens: tuple[int, ...]
    start: int
    end: int


class Writer(Protocol):
    """Writes conversations for a model."""

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end an answer, where no token of the vocabulary does."""
        ...

    def opened(self, turns: Sequence[Turn]) -> list[int]:
        """Token ids up to where the assistant's answer begins.

        Raises:
            InputError: The template refuses the turns.
        """
        ...

    def answered(self, turns: Sequence[Turn], answer: str, *, ended: bool = True) -> Written:
        """Tokens with an answer behind the turns.

        Args:
            turns: What stands before it.
            answer: Its text.
            ended: Whether its turn ends there.

        Raises:
            InputError: The template refuses the turns.
        """
        ...


@dataclass(frozen=True)
class TemplateWriter:
    """Writes by a chat template, as the server does.

    Attributes:
        vocabulary: Of the model.
        template: Its template.
    """

    vocabulary: EndingVocabulary
    template: ChatTemplate

    @property
    def stops(self) -> tuple[str, ...]:
        """See `Writer`."""
        return self.template.stops

    def opened(self, turns: Sequence[Turn]) -> list[int]:
        """See `Writer`."""
        return self._tokens(turns)

    def answered(self, turns: Sequence[Turn], answer: str, *, ended: bool = True) -> Written:
        """See `Writer`."""
        opened, tokens = self.opened(turns), self._tokens(turns, answer)
        whole = self._tokens(turns, answer, self._end) if ended else tokens
        end = common_beginning(tokens, whole)
        start = common_beginning(opened, whole)
        if start < len(opened):  # a token reaches into the answer, which no generated one does
            own = self.vocabulary.tokenize(answer, add_special=False)
            whole, start, end = [*opened, *own, *whole[end:]], len(opened), len(opened) + len(own)
        return Written(tuple(whole), start, end)

    @cached_property
    def _end(self) -> str:
        return self.template.end_of_turn(self.vocabulary)

    def _tokens(self, turns: Sequence[Turn], answer: str = "", closing: str = "") -> list[int]:
        messages = [turn.as_dict for turn in turns]
        return self.template.tokens(messages, self.vocabulary, answer=answer, closing=closing)


@dataclass(frozen=True)
class PlainWriter:
    """Writes as plain text, for a model that knows no chat form.

    A system text stands in front, with an empty line behind it.

    Attributes:
        vocabulary: Of the model.
        user_turn: A user's message, which replaces its `{}`.
        assistant_turn: An answer likewise. An open one begins with what is before `{}`, less the
            blanks at its end, and ends where what is behind `{}` begins.
    """

    vocabulary: EndingVocabulary
    user_turn: str
    assistant_turn: str

    @property
    def stops(self) -> tuple[str, ...]:
        """What is behind an answer, and the beginning of the user's next turn on a new line."""
        end = self.assistant_turn.partition("{}")[2]
        asks = self.user_turn.partition("{}")[0].strip()
        return (*([end] if end else []), *([f"\n{asks}"] if asks else []))

    def opened(self, turns: Sequence[Turn]) -> list[int]:
        """See `Writer`."""
        return self.vocabulary.tokenize(self._text(turns))

    def answered(self, turns: Sequence[Turn], answer: str, *, ended: bool = True) -> Written:
        """See `Writer`."""
        opened = self.opened(turns)
        before, _, behind = self.assistant_turn.partition("{}")
        blank = before[len(before.rstrip()) :]
        text = self._text(turns) + blank + answer.removeprefix(blank)
        open_end = self.vocabulary.tokenize(text)
        whole = self.vocabulary.tokenize(text + behind) if ended else open_end
        return Written(
            tuple(whole), common_beginning(opened, whole), common_beginning(open_end, whole)
        )

    def _text(self, turns: Sequence[Turn]) -> str:
        forms = {"system": "{}\n\n", "user": self.user_turn, "assistant": self.assistant_turn}
        written = [forms[turn.role].replace("{}", turn.content, 1) for turn in turns]
        return "".join(written) + self.assistant_turn.partition("{}")[0].rstrip()


def writer_for(recipe: Recipe, model: Model) -> Writer:
    """What writes a recipe's conversations for a model.

    Raises:
        RecipeError: They are in chat form, and the model's template cannot be used.
    """
    if recipe.format == "text":
        return PlainWriter(model, recipe.user_turn, recipe.assistant_turn)
    template = choose_template(model)
    if template.problem is not None:
        raise RecipeError(
            f"recipe {recipe.name!r}: format has value 'chat', but the chat template of model "
            f"{model.name!r} cannot be used: {template.problem}"
        )
    return TemplateWriter(model, template)


def common_beginning(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the beginning that two sequences share."""
    pairs = enumerate(zip(left, right, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(left), len(right)))
