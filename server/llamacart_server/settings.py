"""Settings of the server: from the command line, else from the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from llamacart.errors import InputError
from llamacart.resolve import DEMO

ENV_PREFIX = "LLAMACART_"

Positive = Annotated[int, Field(ge=1)]


class ServeSettings(BaseSettings):
    """Settings of `llamacart serve`; each is also an environment variable `LLAMACART_<NAME>`.

    Attributes:
        model: GGUF path, `demo`, or `hf:<owner>/<repo>/<file>`.
        cartridges: Folder of cartridge files, all loaded at start-up.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        api_key: Key that clients must send; none means anyone who reaches the port.
        admin_key: Key that adding and removing cartridges takes; it opens everything else too.
            None means that nobody may.
        ctx: KV cells, shared by all requests; also the most that one may use.
        parallel: Requests that decode together.
        batch: Most rows in one step.
        prefix_cache: Idle conversations and prompts whose KV cells stay for reuse; 0 turns reuse
            off. Each takes the logits of one row in memory (1 MiB for Gemma's vocabulary).
        cache_ram: MiB of host memory for the KV of those that had to leave; 0 means none.
        dose_limit: Most relative size ‖Δ‖/‖h_S‖ of what cartridges may do to a row at a layer;
            what is more is scaled down to it and reported. None means no limit.
        gpu_layers: Layers to offload; -1 means all.
        threads: Threads for compute; none means all processors of the process.
        batch_invariant: Compute on the CPU so that a request's text does not depend on what
            runs beside it; reading a long prompt is slower.
        force: Accept cartridges made for other weights of the same shape.
        max_tokens: Most tokens one request may generate; a larger wish is lowered to it.
        default_max_tokens: Tokens of a completion that names no limit.
        default_max_tokens_chat: Tokens of a chat answer that names no limit.
        max_queued: Generations that may wait; also the most in one request, prompts times `n`.
        max_queued_tokens: Prompt tokens that may wait.
        max_body_bytes: Largest request body.
        max_upload_bytes: Largest cartridge file that may be uploaded.
        shutdown_seconds: How long open requests may go on after a signal to stop.
    """

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="ignore", frozen=True)

    model: str = DEMO
    cartridges: Path | None = None
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    api_key: Annotated[SecretStr, Field(min_length=1)] | None = None
    admin_key: Annotated[SecretStr, Field(min_length=1)] | None = None
    ctx: Positive = 8192
    parallel: Positive = 16
    batch: Positive = 512
    prefix_cache: Annotated[int, Field(ge=0)] = 16
    cache_ram: Annotated[int, Field(ge=0)] = 0
    dose_limit: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    gpu_layers: Annotated[int, Field(ge=-1)] = -1
    threads: Positive | None = None
    batch_invariant: bool = True
    force: bool = False
    max_tokens: Positive = 2048
    default_max_tokens: Positive = 16
    default_max_tokens_chat: Positive = 512
    max_queued: Positive = 256
    max_queued_tokens: Positive = 262_144
    max_body_bytes: Positive = 16 * 2**20
    max_upload_bytes: Positive = 256 * 2**20
    shutdown_seconds: Positive = 30

    @field_validator("admin_key")
    @classmethod
    def _not_every_client_is_admin(
        cls, key: SecretStr | None, info: ValidationInfo
    ) -> SecretStr | None:
        if key is not None and key == info.data.get("api_key"):
            raise ValueError("must differ from api_key")
        return key


def load_settings(**given: Any) -> ServeSettings:
    """Settings from `given` values, where not None, else from the environment.

    Raises:
        InputError: A value is not valid; the message names the setting and its variable.
    """
    try:
        return ServeSettings(**{k: v for k, v in given.items() if v is not None})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        value = "" if name in ("api_key", "admin_key") else f" has value {str(first['input'])!r}"
        raise InputError(
            f"setting {name} ({ENV_PREFIX}{name.upper()}){value}: {first['msg']}", param=name
        ) from None
