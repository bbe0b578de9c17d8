"""Bodies and answers of `POST /v1/embeddings`."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from llamacart_server.bodies.answers import ActingCartridge
from llamacart_server.bodies.examples import EMBEDDINGS
from llamacart_server.bodies.fields import WholeNumber
from llamacart_server.bodies.generation import SteeredBody, TextOrTokens, one_by_one

if TYPE_CHECKING:
    from typing import Self

    import numpy as np
    from numpy.typing import NDArray


class EmbeddingsBody(SteeredBody):
    """Body of `POST /v1/embeddings`."""

    model_config = ConfigDict(json_schema_extra={"examples": EMBEDDINGS})

    input: TextOrTokens
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[WholeNumber, Field(ge=1)] | None = Field(
        None, description="Only the model's own width is possible."
    )
    user: str | None = None

    @property
    def inputs(self) -> list[str | list[int]]:
        """The inputs one by one, each text or tokens."""
        return one_by_one(self.input)


class Embedding(BaseModel):
    """One vector, as numbers or as base64 of little-endian 32-bit floats."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str

    @classmethod
    def of(cls, index: int, vector: NDArray[np.float32], *, as_base64: bool) -> Self:
        """The vector in the form that was asked for."""
        if as_base64:
            return cls(
                index=index, embedding=base64.b64encode(vector.astype("<f4").tobytes()).decode()
            )
        return cls(index=index, embedding=vector.tolist())


class EmbeddingUsage(BaseModel):
    """Tokens of the inputs."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(BaseModel):
    """Answer of `POST /v1/embeddings`."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage
    cartridges: list[ActingCartridge]
