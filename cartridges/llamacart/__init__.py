"""llamacart: knowledge and style cartridges for llama.cpp.

Names are imported when they are first used: to import the package, or what only holds values,
loads neither llama.cpp nor a compiler. `docs/python.md` shows how to use them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamacart.lazy import attach

if TYPE_CHECKING:
    from llamacart.capture import forward, row_offsets
    from llamacart.cartridge import Cartridge, Fingerprint, LayerMap, Metadata, QuantizedMatrix
    from llamacart.context import Batch, Context, EvalHook
    from llamacart.control_vector import ControlDose, ControlVector, fit_control_vector
    from llamacart.embedding import Embedder
    from llamacart.errors import (
        AlphaError,
        CartridgeError,
        CartridgeFormatError,
        CartridgeMismatchError,
        ContextOverflowError,
        EngineError,
        InputError,
        LlamacartError,
        ModelError,
        ModelNotFoundError,
        NotFoundError,
        OverloadedError,
        RecipeError,
        UnsupportedModelError,
    )
    from llamacart.generate import greedy, sampled
    from llamacart.hook import SteeringHook, check_fits
    from llamacart.lane import Lane
    from llamacart.model import Model
    from llamacart.reader import read_cartridge
    from llamacart.report import Fault, StepReport
    from llamacart.resolve import resolve_model
    from llamacart.runner import LlamaRunner, RunBatch
    from llamacart.sampling import Sampler, SamplingParams
    from llamacart.scoring import Reference, TextScores, log_likelihoods, reference, score_texts
    from llamacart.steering import UNSTEERED, DenseMap, Dose, Steering
    from llamacart.tap import Tap
    from llamacart.texts import activations, complete
    from llamacart.writer import write_cartridge

__version__ = "0.1.0"

_HOMES = {
    "llamacart.capture": ("forward", "row_offsets"),
    "llamacart.cartridge": ("Cartridge", "Fingerprint", "LayerMap", "Metadata", "QuantizedMatrix"),
    "llamacart.context": ("Batch", "Context", "EvalHook"),
    "llamacart.control_vector": ("ControlDose", "ControlVector", "fit_control_vector"),
    "llamacart.embedding": ("Embedder",),
    "llamacart.errors": (
        "AlphaError",
        "CartridgeError",
        "CartridgeFormatError",
        "CartridgeMismatchError",
        "ContextOverflowError",
        "EngineError",
        "InputError",
        "LlamacartError",
        "ModelError",
        "ModelNotFoundError",
        "NotFoundError",
        "OverloadedError",
        "RecipeError",
        "UnsupportedModelError",
    ),
    "llamacart.generate": ("greedy", "sampled"),
    "llamacart.hook": ("SteeringHook", "check_fits"),
    "llamacart.lane": ("Lane",),
    "llamacart.model": ("Model",),
    "llamacart.reader": ("read_cartridge",),
    "llamacart.report": ("Fault", "StepReport"),
    "llamacart.resolve": ("resolve_model",),
    "llamacart.runner": ("LlamaRunner", "RunBatch"),
    "llamacart.sampling": ("Sampler", "SamplingParams"),
    "llamacart.scoring": ("Reference", "TextScores", "log_likelihoods", "reference", "score_texts"),
    "llamacart.steering": ("DenseMap", "Dose", "Steering", "UNSTEERED"),
    "llamacart.tap": ("Tap",),
    "llamacart.texts": ("activations", "complete"),
    "llamacart.writer": ("write_cartridge",),
}

__all__ = [
    "UNSTEERED",
    "AlphaError",
    "Batch",
    "Cartridge",
    "CartridgeError",
    "CartridgeFormatError",
    "CartridgeMismatchError",
    "Context",
    "ContextOverflowError",
    "ControlDose",
    "ControlVector",
    "DenseMap",
    "Dose",
    "Embedder",
    "EngineError",
    "EvalHook",
    "Fault",
    "Fingerprint",
    "InputError",
    "Lane",
    "LayerMap",
    "LlamaRunner",
    "LlamacartError",
    "Metadata",
    "Model",
    "ModelError",
    "ModelNotFoundError",
    "NotFoundError",
    "OverloadedError",
    "QuantizedMatrix",
    "RecipeError",
    "Reference",
    "RunBatch",
    "Sampler",
    "SamplingParams",
    "Steering",
    "SteeringHook",
    "StepReport",
    "Tap",
    "TextScores",
    "UnsupportedModelError",
    "__version__",
    "activations",
    "check_fits",
    "complete",
    "fit_control_vector",
    "forward",
    "greedy",
    "log_likelihoods",
    "read_cartridge",
    "reference",
    "resolve_model",
    "row_offsets",
    "sampled",
    "score_texts",
    "write_cartridge",
]

__getattr__, __dir__ = attach(__name__, _HOMES)
