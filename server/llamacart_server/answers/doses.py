"""How strong the steering was at each generated token, as clients see it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import BaseModel

from llamacart_server.answers.logprobs import token_name

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self

    from llamacart.values.tokenizer import Tokenizer


@dataclass(frozen=True)
class PlacedDoses:
    """Doses of the row that chose a generated token.

    Attributes:
        start: Characters of the choice's text before the token's own.
        token: Its id.
        layers: ‖Δ‖/‖h_S‖ of each layer, NaN where nothing acted; None where nothing acted at all.
    """

    start: int
    token: int
    layers: tuple[float, ...] | None


class TokenDose(BaseModel):
    """How strong the steering was where a token was chosen.

    Attributes:
        id: The token.
        token: Its text.
        start: Characters of the choice's generated text before it.
        dose: Mean of `layers`; null where no cartridge acted.
        layers: By layer, ‖Δ‖/‖h_S‖ at the row that the token was chosen from.
    """

    id: int
    token: str
    start: int
    dose: float | None
    layers: dict[int, float]

    @classmethod
    def list_of(cls, placed: Iterable[PlacedDoses], tokenizer: Tokenizer) -> list[Self]:
        """Those of tokens of the text."""
        return [cls._of(one, tokenizer) for one in placed]

    @classmethod
    def _of(cls, placed: PlacedDoses, tokenizer: Tokenizer) -> Self:
        layers = by_layer(placed.layers)
        return cls(
            id=placed.token,
            token=token_name(tokenizer.token_bytes(placed.token, special=True)),
            start=placed.start,
            dose=sum(layers.values()) / len(layers) if layers else None,
            layers=layers,
        )


def by_layer(doses: Iterable[float] | None) -> dict[int, float]:
    """The doses of layers that have one; JSON has no infinity, which a step from zero is."""
    return {i: dose for i, dose in enumerate(doses or ()) if math.isfinite(dose)}
