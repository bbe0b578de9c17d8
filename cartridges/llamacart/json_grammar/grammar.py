"""Grammars that generated text must follow, compiled by llguidance for one vocabulary.

A grammar's text is llguidance's own: rules in its dialect of Lark, and JSON Schemas that they
refer to. Tokens are told by their bytes. Control tokens have none here, so that text which is
spelt like one is written by ordinary tokens; only those that end a generation are known.

The work of a token is bounded by `LIMITS`, that of a generation by `SECONDS_PER_TOKEN`: what
exceeds them ends its own generation. All generations of a grammar share the states of its lexer, so
they are computed once.
"""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from llamacart.errors import EngineError, InputError, SchemaTooComplexError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

T = TypeVar("T")

LIMITS = LLParserLimits(
    max_items_in_row=4500,  # an object of 1000 optional properties needs 4000
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=400_000,  # 20 000 words need 300 000 once; about 20 ms
    step_max_items=50_000,
    max_lexer_states=100_000,  # of some 300 bytes each
    max_grammar_size=500_000,
    precompute_large_lexemes=False,
    verbose_errors=False,
)
"""What compiling and each token may cost."""
SECONDS_PER_TOKEN = 0.005
"""What the tokens of a generation may cost on average, in processor time,"""
SECONDS_AHEAD = 0.25
"""and in all beside: the states of a large grammar are computed when they are first met."""
MAX_GRAMMARS = 32
"""Compiled grammars that are kept."""
_MAX_TEXT = 2**23
"""Bytes of their texts in all."""
_WORN = 20_000
"""Tokens after which a grammar is compiled anew: the states of its lexer grow with each."""
_PREAMBLE = '%llguidance {"no_forcing": true}'
"""The model, not llguidance, chooses the tokens of text that is determined."""


def grammar_text(rules: str, parts: Mapping[str, Mapping[str, Any]]) -> str:
    """The text of a grammar.

    Args:
        rules: Lark with a rule `start`; `@name` refers to a part.
        parts: JSON Schemas by name, from `llamacart.json_grammar.schema.schema_part`.
    """
    grammars: list[dict[str, Any]] = [{"lark_grammar": f"{_PREAMBLE}\n{rules}"}]
    grammars += [{"name": name, "json_schema": part} for name, part in parts.items()]
    return json.dumps({"grammars": grammars}, ensure_ascii=False)


def reason_against(text: str) -> str | None:
    """Why a grammar cannot be used with any vocabulary; None where it can."""
    error = _guarded(lambda: LLMatcher.validate_grammar(text, None, limits=LIMITS))
    return _brief(error) if error else None


class Grammars:
    """Compiles grammars for one vocabulary and keeps those that were used last. Thread-safe.

    Args:
        pieces: The bytes of each token; none for control tokens.
        ends: Tokens that end a generation, at least one.

    Raises:
        InputError: There are no `ends`.
    """

    def __init__(self, pieces: Sequence[bytes], ends: Sequence[int]) -> None:
        if not ends:
            raise InputError("the vocabulary has no token that ends a generation")
        self._tokenizer = LLTokenizer(_Vocabulary(pieces, ends), eos_token=list(ends))  # type: ignore[arg-type]
        self._n_words = -(-len(pieces) // 32)
        self._ends = frozenset(ends)
        self._kept: OrderedDict[str, Grammar] = OrderedDict()
        self._changing = threading.Lock()
        # One at a time, so that a flood of them leaves the other cores to the engine.
        self._compiling = threading.Lock()

    def compile(self, text: str) -> Grammar:
        """The grammar of a text of `grammar_text`. Slow the first time, so not for the loop.

        Raises:
            InputError: It cannot be used, or no text follows it.
        """
        grammar = self._look_up(text)
        if grammar is not None:
            return grammar
        with self._compiling:
            grammar = self._look_up(text)
            if grammar is None:
                grammar = self._compile(text)
                self._keep(grammar)
            return grammar

    def _look_up(self, text: str) -> Grammar | None:
        with self._changing:
            grammar = self._kept.get(text)
            if grammar is None or grammar.is_worn:
                return None
            self._kept.move_to_end(text)
            return grammar

    def _keep(self, grammar: Grammar) -> None:
        with self._changing:
            self._kept[grammar.text] = grammar
            self._kept.move_to_end(grammar.text)
            total = sum(len(text) for text in self._kept)
            while len(self._kept) > MAX_GRAMMARS or (total > _MAX_TEXT and len(self._kept) > 1):
                text, _ = self._kept.popitem(last=False)
                total -= len(text)

    def _compile(self, text: str) -> Grammar:
        matcher = _guarded(lambda: LLMatcher(self._tokenizer, text, log_level=0, limits=LIMITS))
        if matcher.is_error():
            raise InputError(f"the grammar cannot be used: {_brief(matcher.get_error())}")
        grammar = Grammar(text, matcher, self._n_words, self._ends)
        # Fills the lexer's states for the first token, and finds a start without a way on.
        first = np.zeros(self._n_words, np.uint32)
        try:
            grammar.start().fill(first)
        except EngineError:
            raise InputError("no text can follow the schema at #") from None
        return grammar


class Grammar:
    """A compiled grammar, shared by all generations that follow it.

    Attributes:
        text: What it was compiled from; grammars of equal texts are equal.
        n_words: Length of what `GrammarState.fill` writes.
        ends: Tokens that end a generation.
    """

    def __init__(self, text: str, matcher: LLMatcher, n_words: int, ends: frozenset[int]) -> None:
        self.text = text
        self.n_words = n_words
        self.ends = ends
        self._matcher = matcher
        self._n_filled = 0
        self._spoilt = False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Grammar) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    @property
    def is_worn(self) -> bool:
        """Whether it should be compiled anew."""
        return self._spoilt or self._n_filled > _WORN

    def start(self) -> GrammarState:
        """The state of a new generation."""
        return GrammarState(self, self._matcher.deep_copy())

    def count_filled(self) -> None:
        """Count a set of allowed tokens that was computed."""
        self._n_filled += 1

    def spoil(self) -> None:
        """Note that its lexer has reached a limit, which it does not leave again."""
        self._spoilt = True


class GrammarState:
    """How far one generation has come in its grammar.

    All methods raise `SchemaTooComplexError` where the work exceeds its bounds, and `EngineError`
    where the text cannot go on.
    """

    def __init__(self, grammar: Grammar, matcher: LLMatcher) -> None:
        self._grammar = grammar
        self._matcher = matcher
        self._n_accepted = 0
        self._seconds = 0.0

    @property
    def n_words(self) -> int:
        """Length of what `fill` writes."""
        return self._grammar.n_words

    def allows(self, token: int) -> bool:
        """Whether the text may go on with `token`."""
        n_allowed = self._work(lambda: self._matcher.validate_tokens([token]))
        # Of a text that nothing can follow, llguidance denies its end too.
        return n_allowed == 1 or (token in self._grammar.ends and self._matcher.is_stopped())

    def fill(self, bits: NDArray[np.uint32]) -> None:
        """Write which tokens the text may go on with: token i is bit i mod 32 of word ⌊i/32⌋.

        Args:
            bits: [n_words].
        """
        self._grammar.count_filled()
        self._work(lambda: self._matcher.unsafe_compute_mask_ptr(bits.ctypes.data, bits.nbytes))

    def accept(self, token: int) -> None:
        """Go on past `token`, which must be allowed."""
        self._work(lambda: self._matcher.consume_token(token))
        self._n_accepted += 1

    def _work(self, call: Callable[[], T]) -> T:
        start = time.thread_time()
        result = _guarded(call)
        self._seconds += time.thread_time() - start
        if self._matcher.is_error():
            reason = _brief(self._matcher.get_error())
            if reason.startswith("NoExtension"):
                raise EngineError("the grammar allows none of the tokens that there are")
            self._grammar.spoil()
            raise SchemaTooComplexError(f"the schema is too complex to be followed: {reason}")
        if self._seconds > SECONDS_AHEAD + SECONDS_PER_TOKEN * self._n_accepted:
            raise SchemaTooComplexError(
                f"the schema is too complex to be followed: {self._n_accepted} tokens took "
                f"{self._seconds:.3f} s, and {SECONDS_PER_TOKEN} s for each is the most"
            )
        return result


class _Vocabulary:
    """A vocabulary in the shape that llguidance reads."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, pieces: Sequence[bytes], ends: Sequence[int]) -> None:
        self.tokens = pieces
        self.eos_token_id = ends[0]
        self.special_token_ids = [i for i, piece in enumerate(pieces) if not piece]

    def __call__(self, _text: bytes) -> list[int]:
        # Asked only where text is forced, which `_PREAMBLE` rules out.
        raise NotImplementedError


def _guarded(call: Callable[[], T]) -> T:
    """The result of a call of llguidance; a panic in it becomes an error like any other."""
    try:
        return call()
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise EngineError(f"llguidance failed: {_brief(str(error))}") from None


def _brief(reason: str) -> str:
    lines = [line for line in reason.splitlines() if line.strip()] or ["no reason given"]
    # A regular expression's error shows the expression first.
    line = next((line for line in lines if line.startswith("error: ")), lines[0])
    line = line.removeprefix("error: ")
    return line if len(line) <= 200 else f"{line[:200]}…"
