"""Every error that the three packages raise on purpose, as one tree.

The number is the HTTP status of an answer. A command ends with exit code 2, or with the one drawn.
In brackets: the module of the server that defines the class; the others are defined here.

    LlamacartError                        500  base of all
    ├── InputError                        400  what was asked cannot be done as asked
    │   ├── AlphaError                    400  α is not finite or beyond ±10
    │   ├── ContextOverflowError          400  the tokens do not fit the context
    │   ├── SchemaTooComplexError         400  a schema takes more work than a token may cost
    │   ├── RecipeError                   400  a recipe or its data set cannot be used
    │   ├── CartridgeError                400  a cartridge cannot be used
    │   │   ├── CartridgeFormatError      400  the file breaks a rule of FORMAT.md
    │   │   └── CartridgeMismatchError    400  made for another model
    │   ├── MethodNotAllowedError         405  the path has no such method [errors]
    │   ├── ConflictError                 409  what exists already is in the way [errors]
    │   ├── BodyTooLargeError             413  longer than `max_body_bytes` [errors]
    │   └── UnsupportedMediaTypeError     415  not the route's Content-Type [errors]
    ├── AuthenticationError               401  no valid key [errors]
    ├── PermissionDeniedError             403  not the admin key [middleware.admin_auth]
    │   ├── AdminOffError                 403  there is no admin key [middleware.admin_auth]
    │   └── TrainingOffError              403  no cartridges are made here [middleware.admin_auth]
    ├── NotFoundError                     404  no such cartridge, model or file
    │   └── ModelNotFoundError            404  a model id names what is not there
    ├── RateLimitError                    429  the key has been used too often [errors]
    ├── ModelError                        500  a model cannot be loaded
    │   └── UnsupportedModelError         500  its rows cannot be steered, or not be followed
    ├── EngineError                       500  llama.cpp failed or the hook lost track of rows
    │   ├── HostWorkError                 500  a request's own work for a token took too long
    │   └── OutOfRangeError               500  activations left what a model computes with
    ├── StorageError                      500  a file cannot be written or deleted [errors]
    ├── RemoteError                       500  a command's server cannot be used [commands.remote]
    ├── OutputError                       500  what a command prints cannot be written
    │   └── ReaderGoneError               500  nobody reads it any more; exit 141
    ├── StoppedError                      500  Ctrl-C; exit 130
    ├── OverloadedError                   503  queue caps are reached, or the server drains
    └── RequestTimeoutError               504  longer than `request_timeout` [errors]

Each class carries the status and the machine-readable code that the server answers with, so that
no caller chooses a status from the text of a message. The trainer has no class of its own.
"""

from __future__ import annotations

from typing import ClassVar


class LlamacartError(Exception):
    """Base of all errors below.

    Args:
        message: One sentence that names the thing and the value.
        param: The request field or setting at fault, if there is one.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    type: ClassVar[str] = "server_error"
    exit_code: ClassVar[int] = 2
    label: ClassVar[str] = "error"
    """What a command's line begins with."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class InputError(LlamacartError):
    """What was asked for cannot be done as asked."""

    status = 400
    code = "invalid_value"
    type = "invalid_request_error"


class AlphaError(InputError):
    """α is not a finite number within ±10."""

    code = "invalid_alpha"


class ContextOverflowError(InputError):
    """The prompt and what is to be generated do not fit the context."""

    code = "context_length_exceeded"


class SchemaTooComplexError(InputError):
    """Following a schema takes more work than one token may cost."""

    code = "schema_too_complex"


class RecipeError(InputError):
    """A recipe, or the data set it names, cannot be used."""

    code = "invalid_recipe"


class CartridgeError(InputError):
    """A cartridge cannot be used."""

    code = "invalid_cartridge"


class CartridgeFormatError(CartridgeError):
    """A file breaks a rule of cartridges/FORMAT.md; `rule` is that rule's name."""

    code = "invalid_cartridge_file"

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(f"{message} [{rule}]")
        self.rule = rule


class CartridgeMismatchError(CartridgeError):
    """The cartridge was made for another model."""

    code = "cartridge_model_mismatch"


class NotFoundError(LlamacartError):
    """No cartridge or model has that name."""

    status = 404
    code = "not_found"
    type = "invalid_request_error"


class ModelNotFoundError(NotFoundError):
    """A model id names a base model or a cartridge that is not there."""

    code = "model_not_found"


class ModelError(LlamacartError):
    """A model cannot be found or loaded."""

    code = "model_error"


class UnsupportedModelError(ModelError):
    """This architecture's graph has no gated FFN product, or shows its rows in another order."""

    code = "unsupported_architecture"


class OverloadedError(LlamacartError):
    """The server takes no more requests at present."""

    status = 503
    code = "overloaded"


class EngineError(LlamacartError):
    """llama.cpp failed, or the hook and the batch disagree about rows."""

    code = "engine_error"


class OutOfRangeError(EngineError):
    """Activations or a step left the range of what a model computes with: the α is too large."""


class HostWorkError(EngineError):
    """What a request wants done for a token beside the model's work took longer than it may."""

    code = "token_timeout"


class OutputError(LlamacartError):
    """What a command prints cannot be written: the disk is full, say."""


class ReaderGoneError(OutputError):
    """Nobody reads any more what a command prints, as with `| head`.

    The exit code is a shell's for a program that ends by SIGPIPE, as others do. The message says
    what stays of the command's work; it is empty, and nothing is told, where there is no such work.
    """

    exit_code = 141
    label = "stopped"


class StoppedError(LlamacartError):
    """Ctrl-C; the message says what stays and how to go on."""

    exit_code = 130
    label = "stopped"
