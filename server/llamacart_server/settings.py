"""Settings of the server: from the command line, the environment and a TOML file."""

from __future__ import annotations

import difflib
import os
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from llamacart.commands.options import FLASH_ATTENTION_HELP, GPU_LAYERS_HELP, THREADS_HELP
from llamacart.disk.text import read_toml
from llamacart.errors import InputError, LlamacartError
from llamacart.llama.resolve import CACHE_VARIABLE, DEMO
from llamacart.machine.processors import ALL_LAYERS, MAX_THREADS
from llamacart_server.engine.limits import MAX_QUEUED, MAX_QUEUED_TOKENS
from llamacart_server.options import Option, split_list

if TYPE_CHECKING:
    from collections.abc import Iterable

ENV_PREFIX = "LLAMACART_"
CONFIG_VARIABLE = f"{ENV_PREFIX}CONFIG"

MODEL = "Model and cartridges"
NETWORK = "Network"
ACCESS = "Who may use it"
CAPACITY = "Capacity"
LIMITS = "Limits of a request"
OPERATION = "Logs and stopping"


def _check_network(value: str) -> str:
    if value != "*":
        ip_network(value)
    return value


def _without_brackets(value: Any) -> Any:
    """An IPv6 address may be given as it stands in a URL."""
    if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
        return value[1:-1]
    return value


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


Place = Annotated[str, BeforeValidator(_as_text), Field(min_length=1)]
Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Host = Annotated[str, BeforeValidator(_without_brackets), Field(min_length=1)]
Network = Annotated[str, AfterValidator(_check_network)]
Secret = Annotated[SecretStr, Field(min_length=1)]
Origin = Annotated[str, Field(pattern=r"^(\*|[a-z][a-z0-9+.-]*://[^/\s]+)$")]
Origins = Annotated[tuple[Origin, ...], NoDecode, BeforeValidator(split_list)]
Networks = Annotated[tuple[Network, ...], NoDecode, BeforeValidator(split_list)]
Secrets = Annotated[tuple[Secret, ...], NoDecode, BeforeValidator(split_list)]


class ServeSettings(BaseSettings):
    """Settings of `llamacart serve`, each declared here and nowhere else.

    The option `--max-tokens` is the variable `LLAMACART_MAX_TOKENS` and the file's key
    `max_tokens`; the command line beats the environment, which beats the file. A variable that is
    set and empty counts as not set, as compose files have it.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_ignore_empty=True, extra="forbid", frozen=True
    )

    model: Annotated[str, Option(MODEL, "GGUF file, 'demo' or hf:<owner>/<repo>/<file>.")] = DEMO
    chat_template: Annotated[
        str | None,
        Option(MODEL, "Jinja file, or gemma, llama3 or chatml; default: the model's own."),
    ] = None
    cartridges: Annotated[
        Place | None,
        Option(
            MODEL,
            "Folder of cartridges, hf:<owner>/<repo>, or the URL of an object store (s3://…); all "
            "are loaded at the start.",
        ),
    ] = None
    refresh_seconds: Annotated[
        Seconds, Option(MODEL, "Seconds between two looks for changed cartridges; 0: none.")
    ] = 30.0
    force: Annotated[
        bool, Option(MODEL, "Accept cartridges made for other weights of the same shape.")
    ] = False
    strict: Annotated[
        bool, Option(MODEL, "Refuse to start where a file of that folder cannot be used.")
    ] = False
    dose_limit: Annotated[
        Annotated[float, Field(gt=0, allow_inf_nan=False)] | None,
        Option(MODEL, "Largest relative size of a steering step; larger steps are made smaller."),
    ] = None
    steer_on: Annotated[
        Literal["auto", "host"],
        Option(MODEL, "Steer layers of a device there (auto), or by copies to the host."),
    ] = "auto"
    gpu_layers: Annotated[int, Field(ge=ALL_LAYERS), Option(MODEL, GPU_LAYERS_HELP)] = ALL_LAYERS
    flash_attention: Annotated[
        Literal["auto", "on", "off"], Option(MODEL, FLASH_ATTENTION_HELP)
    ] = "auto"
    threads: Annotated[
        Annotated[int, Field(ge=1, le=MAX_THREADS)] | None, Option(MODEL, THREADS_HELP)
    ] = None
    batch_invariant: Annotated[
        bool, Option(MODEL, "No text depends on other requests (CPU only; slower prompts).")
    ] = True

    host: Annotated[Host, Option(NETWORK, "Address to listen on.")] = "127.0.0.1"
    port: Annotated[
        int, Field(ge=0, le=65535), Option(NETWORK, "Port to listen on; 0: any free one.")
    ] = 8080
    keep_alive: Annotated[
        Seconds, Option(NETWORK, "Seconds of silence before a stream gets a comment; 0: never.")
    ] = 15.0
    ui: Annotated[bool, Option(NETWORK, "Serve the playground, a page at /.")] = True
    trusted_proxy: Annotated[
        Networks,
        Option(NETWORK, "Address or network whose X-Forwarded-For is trusted, or *; repeatable."),
    ] = ()

    api_key: Annotated[
        Secrets,
        Option(
            ACCESS,
            "Key that clients must send; repeatable, or several with commas. Prefer the "
            "environment or a file: other users can see the command line.",
        ),
    ] = ()
    api_key_file: Annotated[
        Path | None, Option(ACCESS, "File with one key per line; # begins a comment.")
    ] = None
    admin_key: Annotated[
        Secret | None,
        Option(
            ACCESS,
            "Key for adding and removing cartridges; it also opens everything else. "
            "Without it nobody can add or remove.",
        ),
    ] = None
    train_jobs: Annotated[
        bool, Option(ACCESS, "Let the admin key train cartridges here, in processes that give way.")
    ] = False
    rate_limit: Annotated[Count, Option(ACCESS, "Requests per minute and key; 0: no limit.")] = 0
    cors_origin: Annotated[
        Origins, Option(ACCESS, "Origin whose pages may call the server, or *; repeatable.")
    ] = ()

    ctx: Annotated[
        Positive, Option(CAPACITY, "KV cells, shared by all requests; one request may use all.")
    ] = 8192
    parallel: Annotated[Positive, Option(CAPACITY, "Requests that are computed together.")] = 16
    batch: Annotated[Positive, Option(CAPACITY, "Most rows in one step.")] = 512
    prefix_cache: Annotated[
        Count,
        # Each takes the logits of one row in memory: 1 MiB for Gemma's vocabulary.
        Option(CAPACITY, "Idle conversations to keep for reuse; 0: no reuse."),
    ] = 16
    cache_ram: Annotated[
        Count, Option(CAPACITY, "MiB of host memory for idle conversations that lose their cells.")
    ] = 0
    embedding_ctx: Annotated[
        Positive, Option(CAPACITY, "Most tokens of a text to embed, in KV cells of their own.")
    ] = 2048
    max_queued: Annotated[
        Positive, Option(CAPACITY, "Choices that may wait, and most choices of one request.")
    ] = MAX_QUEUED
    max_queued_tokens: Annotated[Positive, Option(CAPACITY, "Prompt tokens that may wait.")] = (
        MAX_QUEUED_TOKENS
    )

    max_tokens: Annotated[
        Positive, Option(LIMITS, "Most tokens that one request may generate; more is cut to it.")
    ] = 2048
    default_max_tokens: Annotated[
        Positive, Option(LIMITS, "Tokens of a completion without a limit of its own.")
    ] = 16
    default_max_tokens_chat: Annotated[
        Positive, Option(LIMITS, "Tokens of a chat answer without a limit of its own.")
    ] = 512
    request_timeout: Annotated[
        Seconds, Option(LIMITS, "Seconds that an answer may take, waiting included; 0: no limit.")
    ] = 600.0
    token_seconds: Annotated[
        Seconds,
        Option(LIMITS, "Seconds of a processor that choosing one token may take; 0: no limit."),
    ] = 1.0
    max_body_bytes: Annotated[Positive, Option(LIMITS, "Bytes of a request body.")] = 16 * 2**20
    max_upload_bytes: Annotated[
        Positive, Option(LIMITS, "Bytes of an uploaded cartridge file.")
    ] = 256 * 2**20

    metrics_names: Annotated[
        Literal["own", "vllm"],
        Option(OPERATION, "Names in /metrics: own, or vllm for vLLM's beside them."),
    ] = "own"
    log_format: Annotated[
        Literal["text", "json"], Option(OPERATION, "Format of the log: text or json.")
    ] = "text"
    log_requests: Annotated[bool, Option(OPERATION, "Write each request to the log.")] = True
    log_prompts: Annotated[
        bool, Option(OPERATION, "Write prompts to the log; they may be private.")
    ] = False
    shutdown_seconds: Annotated[
        Positive, Option(OPERATION, "Seconds that open answers may continue after SIGTERM.")
    ] = 30

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Command line and environment; the first one that has a value wins."""
        del settings_cls, dotenv_settings, file_secret_settings
        return init_settings, env_settings


def unknown_variables(environment: Iterable[str]) -> list[str]:
    """What is to be said of variables that look like settings and are none.

    Only said, not refused: a Kubernetes service of that name, too, sets such variables.
    """
    settings = {f"{ENV_PREFIX}{name.upper()}" for name in ServeSettings.model_fields}
    unknown = sorted(
        name
        for name in environment
        if name.upper().startswith(ENV_PREFIX)
        and name.upper() not in settings | {CONFIG_VARIABLE, CACHE_VARIABLE}
    )
    said = []
    for name in unknown:
        near = difflib.get_close_matches(name.upper(), settings, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        said.append(f"{name} is set, but there is no such setting{hint}")
    return said


def load_settings(config: Path | None = None, **given: Any) -> ServeSettings:
    """Settings from `given` values, where not None, else the environment, else a file.

    Args:
        config: The file; None means the one in LLAMACART_CONFIG, if that is set.
        given: Values of the command line.

    Raises:
        InputError: The file cannot be read, or a value is not valid; the message names the
            setting and its variable.
    """
    try:
        return _reading(config)(**{k: v for k, v in given.items() if v not in (None, [])})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        raise _input_error(name, first["type"], first["input"], first["msg"]) from None


def _reading(config: Path | None) -> type[ServeSettings]:
    """The class with a file as a source, if there is one."""
    variable = os.environ.get(CONFIG_VARIABLE)
    path = config or (Path(variable) if variable else None)
    if path is None:
        return ServeSettings
    try:
        values = read_toml(path)
    except LlamacartError as error:
        raise InputError(f"configuration file {error.message}", param="config") from None

    class SettingsWithFile(ServeSettings):
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *args: Any, **sources: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            first = super().settings_customise_sources(settings_cls, *args, **sources)
            return (*first, InitSettingsSource(settings_cls, values))

    return SettingsWithFile


def _input_error(name: str, kind: str, value: Any, reason: str) -> InputError:
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(name, ServeSettings.model_fields, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return InputError(f"there is no setting {name!r}{hint}", param=name)
    is_secret = name in ("api_key", "admin_key")
    shown = "" if is_secret else f" has value {str(value)!r}"
    variable = f"{ENV_PREFIX}{name.upper()}"
    return InputError(f"setting {name} ({variable}){shown}: {reason}", param=name)
