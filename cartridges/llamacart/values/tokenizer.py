"""What turns text into tokens and back, whoever does it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamacart.json_grammar.grammar import Grammars


class Tokenizer(Protocol):
    """From text to tokens and back; `llamacart.llama.model.Model` has it."""

    @property
    def grammars(self) -> Grammars:
        """Compiles grammars for its tokens."""
        ...

    def tokenize(
        self, text: str, *, add_special: bool = True, parse_special: bool = False
    ) -> list[int]:
        """Token ids of `text`."""
        ...

    def detokenize(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """Text of `tokens`."""
        ...

    def token_bytes(self, token: int, *, special: bool = False) -> bytes:
        """The bytes a token stands for; none for a control token unless `special`."""
        ...

    def check_tokens(self, tokens: Sequence[int]) -> None:
        """Raise `InputError` unless every id is in the vocabulary."""
        ...
