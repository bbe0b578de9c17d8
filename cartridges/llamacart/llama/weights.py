"""A GGUF model held by llama.cpp: its shape, its tokens, its chat template."""

from __future__ import annotations

import codecs
import ctypes
import os
from functools import cached_property
from typing import TYPE_CHECKING, Any

import llama_cpp
import numpy as np

from llamacart.cartridge import Fingerprint
from llamacart.errors import EngineError, InputError, ModelError, UnsupportedModelError
from llamacart.json_grammar.grammar import Grammars
from llamacart.llama import log as llama_log
from llamacart.llama.closing import Closing
from llamacart.llama.fingerprint import weights_hash
from llamacart.llama.graph import Graph, read_graph
from llamacart.llama.kinds import check_kind
from llamacart.llama.model_file import what_it_is
from llamacart.llama.resolve import resolve_model
from llamacart.llama.sites import (
    RESIDUAL_INPUTS,
    RESIDUAL_OUTPUT,
    check_down,
    find_residual,
    find_site,
)
from llamacart.llama.tensors import Tensors
from llamacart.machine import tiles
from llamacart.machine.processors import ALL_LAYERS, check_gpu_layers
from llamacart.values.attention import (
    DEFAULT_ATTENTION,
    FLASH_ATTENTION,
    WITHOUT,
    check_flash_attention,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class Weights(Closing):
    """A loaded model whose rows nobody has looked at yet; see `Model`."""

    def __init__(
        self,
        spec: str,
        *,
        gpu_layers: int = ALL_LAYERS,
        flash_attention: str = DEFAULT_ATTENTION,
        batch_invariant: bool = True,
    ) -> None:
        check_gpu_layers(gpu_layers)
        check_flash_attention(flash_attention)
        llama_log.install()
        llama_cpp.llama_backend_init()
        self.spec = spec
        self.path: Path = resolve_model(spec)
        params = llama_cpp.llama_model_default_params()
        self.uses_device = gpu_layers != 0 and bool(llama_cpp.llama_supports_gpu_offload())
        params.n_gpu_layers = gpu_layers if self.uses_device else 0
        # An empty list, read while the model is loaded: a build for devices then takes the same
        # kernels for layers on the processor as one without, and nothing of a device.
        no_devices = (ctypes.c_void_p * 1)()
        if not self.uses_device:
            params.devices = ctypes.addressof(no_devices)
        self.batch_invariant = batch_invariant and not self.uses_device
        if self.batch_invariant and flash_attention == WITHOUT:
            raise InputError(
                f"flash_attention has value {flash_attention!r}; batch-invariant computation on "
                "the CPU needs it, so turn batch_invariant off too",
                param="flash_attention",
            )
        self.flash_attention = FLASH_ATTENTION[flash_attention]
        params.use_extra_bufts = not self.batch_invariant
        if self.batch_invariant and tiles.takes_tiles():
            raise ModelError(
                f"{tiles.VARIABLE} has value {os.environ[tiles.VARIABLE]!r}; batch-invariant "
                "computation needs '0'"
            )
        llama_log.drain_errors()
        self._handle = llama_cpp.llama_model_load_from_file(os.fsencode(self.path), params)
        if not self._handle:
            reasons = "; ".join(llama_log.drain_errors()) or "no reason given"
            kind = what_it_is(self.path)
            if kind is not None:
                raise ModelError(f"model {str(self.path)!r} is {kind}", param="model")
            raise ModelError(f"llama.cpp cannot load model {str(self.path)!r}: {reasons}")
        self._vocab = llama_cpp.llama_model_get_vocab(self._handle)
        try:
            check_kind(self._handle, self.architecture)
            graph = self._graph()
            nodes = [(node.name, node.width) for node in graph.nodes]
            self.site_node, self.n_ff = find_site(nodes, self.architecture, self.n_layer)
            check_down(graph.down_inputs, self.site_node, self.architecture, self.n_layer)
            self.spent_sources = graph.spent_sources(self.site_node)
            self.kept_cache = graph.kept_cache(self.site_node)
            self._residual_input = find_residual(nodes, self.n_layer, self.n_embd)
        except ModelError:
            self.close()
            raise

    # --- life -------------------------------------------------------------------------------

    @property
    def handle(self) -> Any:
        """The `llama_model *`."""
        if not self._handle:
            raise ModelError(f"model {self.spec!r} is closed")
        return self._handle

    def close(self) -> None:
        """Free the weights; contexts made from it must be closed before."""
        if self._handle:
            llama_cpp.llama_model_free(self._handle)
            self._handle = None

    # --- shape ------------------------------------------------------------------------------

    @cached_property
    def architecture(self) -> str:
        """`general.architecture`."""
        return self.metadata("general.architecture") or "unknown"

    @cached_property
    def name(self) -> str:
        """`general.name`, or the file's stem."""
        return self.metadata("general.name") or self.path.stem

    @cached_property
    def n_layer(self) -> int:
        """L."""
        return int(llama_cpp.llama_model_n_layer(self.handle))

    @cached_property
    def n_embd(self) -> int:
        """Width of the residual stream."""
        return int(llama_cpp.llama_model_n_embd(self.handle))

    @cached_property
    def n_vocab(self) -> int:
        """Tokens in the vocabulary."""
        return int(llama_cpp.llama_vocab_n_tokens(self._vocab))

    @cached_property
    def n_bytes(self) -> int:
        """Bytes of all its tensors."""
        return int(llama_cpp.llama_model_size(self.handle))

    @cached_property
    def n_ctx_train(self) -> int:
        """Context length the model was trained with, in tokens."""
        return int(llama_cpp.llama_model_n_ctx_train(self.handle))

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """What a cartridge made for this model is compared with."""
        return Fingerprint(
            architecture=self.architecture,
            n_layer=self.n_layer,
            n_ff=self.n_ff,
            n_embd=self.n_embd,
            weights_hash=weights_hash(self.path),
            name=self.name,
        )

    def metadata(self, key: str) -> str | None:
        """A metadata value of the GGUF file as text, or None where the key is absent."""
        size = llama_cpp.llama_model_meta_val_str(self.handle, key.encode(), None, 0)
        if size < 0:
            return None
        buffer = ctypes.create_string_buffer(size + 1)
        llama_cpp.llama_model_meta_val_str(self.handle, key.encode(), buffer, size + 1)
        return buffer.value.decode("utf-8", "replace")

    @cached_property
    def chat_template(self) -> str | None:
        """The Jinja chat template in the file, if there is one."""
        text = llama_cpp.llama_model_chat_template(self.handle, None)
        return text.decode("utf-8", "replace") if text else None

    @property
    def residual_input(self) -> str:
        """Node that holds the residual stream as it enters the FFN, e.g. `ffn_inp`.

        Raises:
            UnsupportedModelError: The graph has none.
        """
        if self._residual_input is None:
            raise UnsupportedModelError(
                f"architecture {self.architecture!r} shows no residual stream: neither "
                f"{' nor '.join(RESIDUAL_INPUTS)} stands beside {RESIDUAL_OUTPUT} in all layers",
                param="model",
            )
        return self._residual_input

    @cached_property
    def tensors(self) -> Tensors:
        """The tensors of its file."""
        return Tensors(self.path)

    def _graph(self) -> Graph:
        """What runs for one token."""
        try:
            return read_graph(
                self.handle,
                max(self.bos_token, 0),
                op_offload=self.uses_device,
                flash_attention=self.flash_attention,
            )
        except EngineError as error:
            raise ModelError(f"model {str(self.path)!r}: {error.message}") from error

    # --- tokens -----------------------------------------------------------------------------

    @cached_property
    def bos_token(self) -> int:
        """Beginning-of-sequence token, -1 where the vocabulary has none."""
        return int(llama_cpp.llama_vocab_bos(self._vocab))

    @cached_property
    def eos_token(self) -> int:
        """End-of-sequence token, -1 where the vocabulary has none."""
        return int(llama_cpp.llama_vocab_eos(self._vocab))

    def is_end_of_generation(self, token: int) -> bool:
        """Whether `token` ends a generation (EOS, end of turn, …)."""
        return bool(llama_cpp.llama_vocab_is_eog(self._vocab, token))

    @cached_property
    def grammars(self) -> Grammars:
        """Compiles grammars for this vocabulary; takes a second or two for a large one.

        Raises:
            InputError: The vocabulary has no end token.
        """
        ends = [token for token in range(self.n_vocab) if self.is_end_of_generation(token)]
        return Grammars(self._pieces(), ends)

    def _pieces(self) -> list[bytes]:
        """`token_bytes` of the whole vocabulary, in one buffer."""
        capacity = 64
        buffer = ctypes.create_string_buffer(capacity)
        pieces: list[bytes] = []
        for token in range(self.n_vocab):
            count = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, capacity, 0, False)
            pieces.append(
                ctypes.string_at(buffer, count) if count >= 0 else self.token_bytes(token)
            )
        return pieces

    def tokenize(
        self, text: str, *, add_special: bool = True, parse_special: bool = False
    ) -> list[int]:
        """Token ids of `text`.

        Args:
            text: Any string.
            add_special: Put BOS (and EOS) where the model wants them. Base Gemma degenerates
                without BOS.
            parse_special: Read `<start_of_turn>` and the like as control tokens. Only for text
                that a chat template made.
        """
        raw = text.encode("utf-8", "surrogatepass")
        capacity = len(raw) + 8
        while True:
            buffer = (llama_cpp.llama_token * capacity)()
            count = llama_cpp.llama_tokenize(
                self._vocab, raw, len(raw), buffer, capacity, add_special, parse_special
            )
            if count >= 0:
                return list(buffer[:count])
            capacity = -count

    def token_bytes(self, token: int, *, special: bool = False) -> bytes:
        """The bytes a token stands for; a character may span several tokens."""
        capacity = 64
        while True:
            buffer = ctypes.create_string_buffer(capacity)
            count = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, capacity, 0, special)
            if count >= 0:
                return buffer.raw[:count]
            capacity = -count

    def detokenize(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """Text of `tokens`; bytes that are no UTF-8 become U+FFFD."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        raw = b"".join(self.token_bytes(t, special=special) for t in tokens)
        return decoder.decode(raw, final=True)

    def check_tokens(self, tokens: Sequence[int]) -> None:
        """Refuse ids outside the vocabulary by `InputError`: llama.cpp may crash on them."""
        array = np.asarray(tokens, np.int64)
        bad = array[(array < 0) | (array >= self.n_vocab)]
        if bad.size:
            raise InputError(
                f"token {int(bad[0])} is not in the vocabulary (0..{self.n_vocab - 1})"
            )
