"""A GBNF grammar that generated text must follow, as llama.cpp's grammar sampler."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import llama_cpp

from llamacart.closing import Closing
from llamacart.errors import InputError
from llamacart.gbnf import check_grammar

if TYPE_CHECKING:
    from llamacart.model import Model

_FITS = 1.0


class GrammarSampler(Closing):
    """The state of one generation in its grammar.

    Args:
        text: GBNF with a rule `root`.
        model: Whose vocabulary spells the text.

    Raises:
        InputError: The grammar is refused by `check_grammar` or by llama.cpp.
    """

    def __init__(self, text: str, model: Model) -> None:
        self._handle: Any = None
        raw = check_grammar(text)
        vocab = llama_cpp.llama_model_get_vocab(model.handle)
        self._handle = llama_cpp.llama_sampler_init_grammar(vocab, raw, b"root")
        if not self._handle:
            raise InputError("llama.cpp cannot use this grammar", param="grammar")
        self._one = llama_cpp.llama_token_data()
        self._array = llama_cpp.llama_token_data_array()

    @property
    def handle(self) -> Any:
        """The `llama_sampler *`; it puts the logits of tokens that do not fit to −∞."""
        return self._handle

    def allows(self, token: int) -> bool:
        """Whether the text may go on with `token`."""
        self._one.id, self._one.logit = token, _FITS
        self._array.data, self._array.size = ctypes.pointer(self._one), 1
        llama_cpp.llama_sampler_apply(self._handle, ctypes.byref(self._array))
        return bool(self._one.logit == _FITS)

    def accept(self, token: int) -> None:
        """Go on past `token`, which must be allowed: llama.cpp ends the process otherwise."""
        llama_cpp.llama_sampler_accept(self._handle, token)

    def close(self) -> None:
        """Free the grammar; closing again does nothing."""
        if self._handle:
            llama_cpp.llama_sampler_free(self._handle)
            self._handle = None
