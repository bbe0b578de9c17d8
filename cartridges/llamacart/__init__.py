"""llamacart: knowledge and style cartridges for llama.cpp.

Names are imported when they are first used: to import the package, or what only holds values,
loads neither llama.cpp nor a compiler. `docs/python.md` shows how to use them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamacart.lazy import attach

if TYPE_CHECKING:
    from llamacart.cartridge import (
        Cartridge,
        Fingerprint,
        LayerMap,
        Metadata,
        check_fits,
    )
    from llamacart.errors import (
        AlphaError,
        CartridgeError,
        CartridgeFormatError,
        CartridgeMismatchError,
        ContextOverflowError,
        EngineError,
        HostWorkError,
        InputError,
        LlamacartError,
        ModelError,
        ModelNotFoundError,
        NotFoundError,
        OutOfRangeError,
        OutputError,
        OverloadedError,
        ReaderGoneError,
        RecipeError,
        SchemaTooComplexError,
        StoppedError,
        UnsupportedModelError,
    )
    from llamacart.file.reader import read_cartridge
    from llamacart.file.writer import write_cartridge
    from llamacart.hook.steering_hook import SteeringHook
    from llamacart.json_grammar.grammar import Grammar
    from llamacart.llama.context import Context, EvalHook
    from llamacart.llama.model import Model
    from llamacart.llama.resolve import resolve_model
    from llamacart.llama.tap import Tap
    from llamacart.llama.weights import Weights
    from llamacart.matrix import FactoredMatrix, QuantizedMatrix
    from llamacart.passes.capture import forward, row_offsets
    from llamacart.passes.control_vector import ControlDose, ControlVector, fit_control_vector
    from llamacart.passes.embedding import Embedder
    from llamacart.passes.generate import greedy, sampled
    from llamacart.passes.lane import Lane
    from llamacart.passes.scoring import (
        Reference,
        TextScores,
        log_likelihoods,
        reference,
        score_texts,
    )
    from llamacart.passes.texts import activations, complete
    from llamacart.runner import LlamaRunner
    from llamacart.sampling.sampler import Sampler
    from llamacart.values.batch import Batch, RunBatch
    from llamacart.values.report import Fault, StepReport
    from llamacart.values.sampling import SamplingParams
    from llamacart.values.steering import UNSTEERED, DenseMap, Dose, Steering

__version__ = "0.1.0"

_HOMES = {
    "llamacart.cartridge": (
        "Cartridge",
        "Fingerprint",
        "LayerMap",
        "Metadata",
        "check_fits",
    ),
    "llamacart.errors": (
        "AlphaError",
        "CartridgeError",
        "CartridgeFormatError",
        "CartridgeMismatchError",
        "ContextOverflowError",
        "EngineError",
        "HostWorkError",
        "InputError",
        "LlamacartError",
        "ModelError",
        "ModelNotFoundError",
        "NotFoundError",
        "OutOfRangeError",
        "OutputError",
        "OverloadedError",
        "ReaderGoneError",
        "RecipeError",
        "SchemaTooComplexError",
        "StoppedError",
        "UnsupportedModelError",
    ),
    "llamacart.file.reader": ("read_cartridge",),
    "llamacart.file.writer": ("write_cartridge",),
    "llamacart.hook.steering_hook": ("SteeringHook",),
    "llamacart.json_grammar.grammar": ("Grammar",),
    "llamacart.llama.context": (
        "Context",
        "EvalHook",
    ),
    "llamacart.llama.model": ("Model",),
    "llamacart.llama.resolve": ("resolve_model",),
    "llamacart.llama.tap": ("Tap",),
    "llamacart.llama.weights": ("Weights",),
    "llamacart.matrix": ("FactoredMatrix", "QuantizedMatrix"),
    "llamacart.passes.capture": (
        "forward",
        "row_offsets",
    ),
    "llamacart.passes.control_vector": (
        "ControlDose",
        "ControlVector",
        "fit_control_vector",
    ),
    "llamacart.passes.embedding": ("Embedder",),
    "llamacart.passes.generate": (
        "greedy",
        "sampled",
    ),
    "llamacart.passes.lane": ("Lane",),
    "llamacart.passes.scoring": (
        "Reference",
        "TextScores",
        "log_likelihoods",
        "reference",
        "score_texts",
    ),
    "llamacart.passes.texts": (
        "activations",
        "complete",
    ),
    "llamacart.runner": ("LlamaRunner",),
    "llamacart.sampling.sampler": ("Sampler",),
    "llamacart.values.batch": (
        "Batch",
        "RunBatch",
    ),
    "llamacart.values.report": (
        "Fault",
        "StepReport",
    ),
    "llamacart.values.sampling": ("SamplingParams",),
    "llamacart.values.steering": (
        "DenseMap",
        "Dose",
        "Steering",
        "UNSTEERED",
    ),
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
    "FactoredMatrix",
    "Fault",
    "Fingerprint",
    "Grammar",
    "HostWorkError",
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
    "OutOfRangeError",
    "OutputError",
    "OverloadedError",
    "QuantizedMatrix",
    "ReaderGoneError",
    "RecipeError",
    "Reference",
    "RunBatch",
    "Sampler",
    "SamplingParams",
    "SchemaTooComplexError",
    "Steering",
    "SteeringHook",
    "StepReport",
    "StoppedError",
    "Tap",
    "TextScores",
    "UnsupportedModelError",
    "Weights",
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
