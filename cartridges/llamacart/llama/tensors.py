"""A model's weights as numbers, read from its file."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import gguf
import numpy as np

from llamacart.errors import ModelError, UnsupportedModelError
from llamacart.llama.fingerprint import parts_of
from llamacart.llama.gguf_header import GgufHeader

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from llamacart.llama.gguf_header import TensorPlace


class Tensors:
    """The tensors of a GGUF file and its parts, dequantised when they are asked for.

    Args:
        path: The model's file, or the first of its parts.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _places(self) -> dict[str, tuple[Path, TensorPlace]]:
        places: dict[str, tuple[Path, TensorPlace]] = {}
        for part in parts_of(self.path):
            with GgufHeader.opened(part) as header:
                if header is None:
                    raise ModelError(f"model {str(part)!r} can no longer be read")
                places |= {place.name: (part, place) for place in header.tensors()}
        return places

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def read(
        self, name: str, shape: Sequence[int], rows: NDArray[np.integer] | None = None
    ) -> NDArray[np.float32]:
        """A tensor's values.

        Args:
            name: Its name, e.g. `blk.0.ffn_down.weight`.
            shape: The one that it must have, e.g. (E, D); the last axis is the one that is
                contiguous.
            rows: Those of the first axis to read; None means all.

        Raises:
            UnsupportedModelError: There is no such tensor, it has another shape, or it is of a
                type that is not known here.
            ModelError: The file cannot be read.
        """
        if name not in self:
            raise UnsupportedModelError(f"model {str(self.path)!r} has no tensor {name!r}")
        part, place = self._places[name]
        wanted = (1,) * (4 - len(shape)) + tuple(shape)
        if place.shape != wanted:
            raise UnsupportedModelError(
                f"tensor {name!r} of model {str(self.path)!r} has shape {place.shape}; {wanted} is "
                "needed"
            )
        n_rows = int(np.prod(shape[:-1]))
        try:
            raw = np.memmap(part, np.uint8, "r", place.offset, (n_rows, place.n_bytes // n_rows))
            kept = np.array(raw if rows is None else raw[rows])
        except (OSError, ValueError) as error:
            raise ModelError(f"model {str(part)!r} cannot be read: {error}") from error
        try:
            kind = gguf.GGMLQuantizationType(place.kind)
            values = gguf.dequantize(kept, kind)
        except (ValueError, NotImplementedError) as error:
            raise UnsupportedModelError(
                f"tensor {name!r} of model {str(self.path)!r} is of type {place.kind}, which "
                "cannot be dequantised here"
            ) from error
        return np.asarray(values, np.float32).reshape(-1, *shape[1:])
