"""llama.cpp's own LoRA adapters: what an exported cartridge is to other engines."""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING, Any

import llama_cpp

from llamacart.errors import EngineError, ModelError
from llamacart.llama import log as llama_log
from llamacart.llama.closing import Closing

if TYPE_CHECKING:
    from pathlib import Path

    from llamacart.llama.context import Context
    from llamacart.llama.weights import Weights


class LoraAdapter(Closing):
    """A LoRA file, loaded for one model.

    Args:
        model: The model; must outlive the adapter.
        path: A GGUF file of type `adapter`.

    Raises:
        ModelError: llama.cpp cannot load it.
    """

    def __init__(self, model: Weights, path: Path) -> None:
        llama_log.drain_errors()
        self._handle: Any = llama_cpp.llama_adapter_lora_init(model.handle, os.fsencode(path))
        if not self._handle:
            reasons = "; ".join(llama_log.drain_errors()) or "no reason given"
            raise ModelError(f"llama.cpp cannot load adapter {str(path)!r}: {reasons}")

    def close(self) -> None:
        """Free it; contexts that it acts in must be closed before."""
        if self._handle:
            llama_cpp.llama_adapter_lora_free(self._handle)
            self._handle = None

    def apply(self, context: Context, scale: float = 1.0) -> None:
        """Let it act on all rows that `context` decodes from now on.

        Raises:
            EngineError: llama.cpp refuses it.
        """
        adapters = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(self._handle)
        scales = (ctypes.c_float * 1)(scale)
        status = llama_cpp.llama_set_adapters_lora(context.handle, adapters, 1, scales)
        if status != 0:
            raise EngineError(f"llama.cpp refuses an adapter ({status})")
