"""Whether llama.cpp computes attention as one operation, flash attention, or as several."""

from __future__ import annotations

from llamacart.errors import InputError

DEFAULT_ATTENTION = "auto"
WITHOUT = "off"

FLASH_ATTENTION = {DEFAULT_ATTENTION: -1, "on": 1, WITHOUT: 0}
"""llama.cpp's `llama_flash_attn_type` by its name; `auto` asks each layer's device."""


def check_flash_attention(value: str) -> None:
    """Raise `InputError` unless `value` is among `FLASH_ATTENTION`."""
    if value not in FLASH_ATTENTION:
        raise InputError(
            f"flash_attention has value {value!r}; {', '.join(FLASH_ATTENTION)} are possible",
            param="flash_attention",
        )
