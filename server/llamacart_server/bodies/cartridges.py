"""Bodies of the routes that show and change cartridges."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from llamacart.cartridge import ALPHA_LIMIT
from llamacart_server.bodies.fields import Body

if TYPE_CHECKING:
    from typing import Self

    from llamacart.cartridge import Cartridge
    from llamacart_server.library.library import Entry

CartridgeId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$")]
FilePath = Annotated[str, Field(min_length=1, max_length=4096)]


class LoadBody(Body):
    """Body of `POST /v1/cartridges` that names a file in the cartridges folder."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"path": "french.gguf"}]})

    path: FilePath
    id: CartridgeId | None = None


class LoadLoraBody(Body):
    """Body of `POST /v1/load_lora_adapter`, as vLLM has it."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"lora_name": "french", "lora_path": "french.gguf"}]}
    )

    harmless: ClassVar[Collection[str]] = ("base_model_name", "lora_int_id")

    lora_name: CartridgeId
    lora_path: FilePath
    load_inplace: Annotated[bool, Field(strict=True)] | None = None


class UnloadLoraBody(Body):
    """Body of `POST /v1/unload_lora_adapter`, as vLLM has it."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"lora_name": "french"}]})

    harmless: ClassVar[Collection[str]] = ("lora_int_id",)

    lora_name: str


class MadeFor(BaseModel):
    """The model that a cartridge was made for.

    Attributes:
        name: For people.
        architecture: GGUF's name of it.
        n_layer: Layers.
        n_ff: Width of the FFN.
        n_embd: Width of the residual stream.
        weights_hash: Tells two fine-tunes apart.
    """

    name: str
    architecture: str
    n_layer: int
    n_ff: int
    n_embd: int
    weights_hash: str


class CartridgeInfo(BaseModel):
    """All there is to know of a cartridge.

    Attributes:
        id: What requests name it by.
        model: The model id that asks for it at its own α.
        description: One sentence for people.
        default_alpha: α where a request names none.
        alpha_min: Least α.
        alpha_max: Greatest α.
        hash: SHA-256 over what acts; a part of the KV cache's key.
        size_bytes: Of what acts, at eight bits a value as in memory; a file may have four.
        active_neurons: Over all layers.
        layers: Layers at which it acts.
        when: It acts from where one of these texts has been said; empty means always.
        made_for: Its model.
        file: Its path in the cartridges folder; null if it is only in memory.
        created: ISO 8601, UTC.
        solver: Name of the fit.
        settings: The fit's settings.
        dataset_hash: Digest of the training pairs.
        diagnostics: Figures of the fit.
        tool_version: Version of llamacart that made it.
    """

    id: str
    object: Literal["cartridge"] = "cartridge"
    model: str
    description: str
    default_alpha: float
    alpha_min: float = -ALPHA_LIMIT
    alpha_max: float = ALPHA_LIMIT
    hash: str
    size_bytes: int
    active_neurons: int
    layers: list[int]
    when: list[str]
    made_for: MadeFor
    file: str | None
    created: str
    solver: str
    settings: dict[str, Any]
    dataset_hash: str
    diagnostics: dict[str, Any]
    tool_version: str

    @classmethod
    def of(cls, entry: Entry, base_id: str) -> Self:
        """What is known of `entry`, on a server whose base model is `base_id`."""
        cartridge = entry.cartridge
        metadata, base = cartridge.metadata, cartridge.fingerprint
        return cls(
            id=metadata.name,
            model=f"{base_id}:{metadata.name}",
            description=metadata.description,
            default_alpha=metadata.default_alpha,
            hash=cartridge.content_hash,
            size_bytes=_n_bytes(cartridge),
            active_neurons=cartridge.n_active,
            layers=[m.layer for m in cartridge.layers],
            when=list(cartridge.when),
            made_for=MadeFor(
                name=base.name,
                architecture=base.architecture,
                n_layer=base.n_layer,
                n_ff=base.n_ff,
                n_embd=base.n_embd,
                weights_hash=base.weights_hash,
            ),
            file=entry.file,
            created=metadata.created,
            solver=metadata.solver,
            settings=dict(metadata.settings),
            dataset_hash=metadata.dataset_hash,
            diagnostics=dict(metadata.diagnostics),
            tool_version=metadata.tool_version,
        )


class LeftOutFile(BaseModel):
    """A file of the cartridges folder or store that could not be loaded.

    Attributes:
        file: Its path in the folder.
        reason: Why.
    """

    file: str
    reason: str


class CartridgeList(BaseModel):
    """Answer of `GET /v1/cartridges`.

    Attributes:
        data: The cartridges.
        left_out: Files of the folder that are none.
        train_jobs: Whether the server makes cartridges too.
        weights_hash: That of the model that is served, as in `made_for`; `--force` alone takes
            cartridges of another.
    """

    object: Literal["list"] = "list"
    data: list[CartridgeInfo]
    left_out: list[LeftOutFile]
    train_jobs: bool
    weights_hash: str


class CartridgeDeleted(BaseModel):
    """Answer of `DELETE /v1/cartridges/{id}`."""

    id: str
    object: Literal["cartridge"] = "cartridge"
    deleted: Literal[True] = True
    file_deleted: bool


def _n_bytes(cartridge: Cartridge) -> int:
    small = sum(m.neurons.nbytes + m.bias.nbytes for m in cartridge.layers)
    return small + sum(m.delta.n_bytes for m in cartridge.layers if m.delta)
