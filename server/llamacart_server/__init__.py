"""An OpenAI-compatible server whose requests choose their cartridges."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamacart.lazy import attach

if TYPE_CHECKING:
    from llamacart_server.app import create_app
    from llamacart_server.commands.serve import build
    from llamacart_server.engine.engine import Engine
    from llamacart_server.engine.request import (
        GenerationReport,
        GenerationRequest,
        PlacedDose,
        TokenEvent,
    )
    from llamacart_server.library.library import CartridgeLibrary
    from llamacart_server.served import ServedModel, describe
    from llamacart_server.settings import ServeSettings, load_settings

_HOMES = {
    "llamacart_server.app": ("create_app",),
    "llamacart_server.commands.serve": ("build",),
    "llamacart_server.engine.engine": ("Engine",),
    "llamacart_server.engine.request": (
        "GenerationReport",
        "GenerationRequest",
        "PlacedDose",
        "TokenEvent",
    ),
    "llamacart_server.library.library": ("CartridgeLibrary",),
    "llamacart_server.served": (
        "ServedModel",
        "describe",
    ),
    "llamacart_server.settings": (
        "ServeSettings",
        "load_settings",
    ),
}

__all__ = [
    "CartridgeLibrary",
    "Engine",
    "GenerationReport",
    "GenerationRequest",
    "PlacedDose",
    "ServeSettings",
    "ServedModel",
    "TokenEvent",
    "build",
    "create_app",
    "describe",
    "load_settings",
]

__getattr__, __dir__ = attach(__name__, _HOMES)
