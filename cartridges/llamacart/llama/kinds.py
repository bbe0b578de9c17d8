"""Kinds of models that are refused by name."""

from __future__ import annotations

from typing import Any

import llama_cpp

from llamacart.errors import UnsupportedModelError


def check_kind(handle: Any, architecture: str) -> None:
    """Refuse kinds of models whose rows llama.cpp is known to reorder, or that do not generate.

    Args:
        handle: The `llama_model *`.
        architecture: Its name, for messages.

    Raises:
        UnsupportedModelError: By the name of the kind.
    """
    for is_of_kind, why in (
        (
            llama_cpp.llama_model_is_recurrent(handle),
            "it is recurrent, and llama.cpp reorders the rows of such models",
        ),
        (
            llama_cpp.llama_model_is_hybrid(handle),
            "it is a hybrid with recurrent layers, and llama.cpp reorders the rows of such models",
        ),
        (llama_cpp.llama_model_has_encoder(handle), "it has an encoder; only a decoder can be"),
        (
            llama_cpp.llama_model_is_diffusion(handle),
            "it generates by diffusion and not token by token",
        ),
    ):
        if is_of_kind:
            raise refusal(architecture, why)


def refusal(architecture: str, why: str) -> UnsupportedModelError:
    """The error of a model that loads and cannot be steered."""
    return UnsupportedModelError(
        f"architecture {architecture!r} cannot be steered: {why}", param="model"
    )
