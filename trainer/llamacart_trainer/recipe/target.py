"""Keys of a recipe that say what a layer is fitted to, where, and how closely."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from llamacart.errors import CartridgeFormatError
from llamacart.file.condition import check_when

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

Target = Literal["activation", "residual", "object"]

StorageChoice = Literal["q8_0", "q5_0", "q4_0", "auto"]

OF_TEXTS: tuple[Target, ...] = ("activation", "residual")
"""Those of another text: a fact has none."""

RELATIVE_PENALTY = 0.1
"""λ of a recipe that gives none, where a gap is to be closed."""

WAITING_PENALTY = 0.03
"""The same where facts are taught that wait for their subjects: no other text has to be kept."""

WAITING_NEUTRAL_WEIGHT = 0.02
"""How often a row beside what is taught counts there."""

WAITING_NEURONS = 250
"""K there."""

WAITING_STORAGE: StorageChoice = "q4_0"
"""How weights are stored there: the file is less than half as large, and tells as much."""

WAITING_MARGIN = 5.0
"""By how many nats an object is to be ahead there: other ways to ask keep only a part of it."""

RANK = 32
"""Rank of a recipe that gives none, where its target is `residual`, its solver `LOW_RANK`, and the
cartridge always acts: with 300 neurons a layer a file has less than 1 % of its model, from 270M
parameters on. What waits for a text is there to know something: each fact is a direction."""

LOW_RANK = "ridge-identity"
"""The solver whose W − E_S has few directions that matter. That of the others says of each neuron
what it keeps of itself."""

_WAITING: dict[str, object] = {
    "penalty": WAITING_PENALTY,
    "neutral_weight": WAITING_NEUTRAL_WEIGHT,
    "neurons": WAITING_NEURONS,
    "storage": WAITING_STORAGE,
    "margin": WAITING_MARGIN,
}
_ACTIVATION_KEYS = ("threshold",)
_GAP_KEYS = ("neurons", "step")
_OBJECT_KEYS = ("margin", "neighbours")


class TargetKeys(BaseModel):
    """What a layer is fitted to.

    Attributes:
        target: `activation`: the target text's activations (the paper). `residual`: its residual
            stream behind the layer. `object`: a fact's object, which the model's last residual
            stream is to say; that of recipes of kind `facts`, and theirs alone.
        threshold: δ of the neuron selection; only where the target is `activation`.
        neurons: Neurons K of a layer; not where the target is `activation`. Where facts wait for
            their subjects, `WAITING_NEURONS` by default.
        storage: How W − E_S is stored; see `FitSettings`. Where facts wait for their subjects,
            `WAITING_STORAGE` by default.
        rank: r of the factors U [K, r] and V [r, D] that a file holds in place of W − E_S; `auto`
            takes for each layer the least that loses a tenth of its steps at most, `full` none. A
            layer whose factors would be no smaller keeps its whole map. Where the target is
            `residual`, the solver `LOW_RANK`, and `when` empty, `RANK` by default.
        step: Share of the gap that a layer is asked to close; not where it is `activation`.
        penalty: λ, or `auto`: chosen by cross-validation. Unless the target is `activation`, as a
            share of the mean of the diagonal of X̄ᵀX̄, and `RELATIVE_PENALTY` by default, or
            `WAITING_PENALTY`.
        neutral_weight: How often a neutral row counts. `auto`: once; unless the target is
            `activation`, so often that all neutral rows together count as much as the tied ones
            five times (`residual`) or twice (`object`). Where facts wait for their subjects,
            `WAITING_NEUTRAL_WEIGHT` by default.
        margin: By how many nats a fact's object is to be ahead of everything else; only where the
            target is `object`. Where facts wait for their subjects, `WAITING_MARGIN` by default.
        neighbours: Other subjects that each fact's prompt is left alone for; only where it is
            `object`, and only where `when` is empty.
        when: The cartridge acts from where one of these texts has been said; empty means always.
            Without the key it waits for nothing, and where facts are taught for their subjects.
        layers: First and last layer to fit; -1 is the last. None means all; unless the target is
            `activation`, all but the last, which is the dearest to fit; where it is `object`,
            those of them in which the last row decides, see `deciding_layers`.
        skip_layers: Layers among them that are left alone.
    """

    target: Target = "activation"
    threshold: Annotated[float, Field(ge=0, lt=1)] = 0.03
    neurons: Annotated[int, Field(ge=1)] = 300
    storage: StorageChoice = "q8_0"
    rank: Annotated[int, Field(ge=1)] | Literal["auto", "full"] = "full"
    step: Annotated[float, Field(gt=0, le=2)] = 1.0
    penalty: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["auto"] = 300.0
    neutral_weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["auto"] = "auto"
    margin: Annotated[float, Field(gt=0, le=20)] = 3.0
    neighbours: Annotated[int, Field(ge=0, le=64)] = 16
    when: list[str] | None = None
    layers: Annotated[list[int], Field(min_length=2, max_length=2)] | None = None
    skip_layers: list[int] = []

    @property
    def closes_gap(self) -> bool:
        """Whether a layer is to close a gap behind its FFN, not to copy activations."""
        return self.target != "activation"

    @property
    def waits(self) -> bool:
        """Whether the cartridge acts only from where a text has been said."""
        return self.when != [] if self.target == "object" else bool(self.when)

    @field_validator("when")
    @classmethod
    def _can_be_said(cls, texts: list[str] | None) -> list[str] | None:
        try:
            return None if texts is None else list(check_when(texts))
        except CartridgeFormatError as error:
            raise ValueError(error.message) from None

    @model_validator(mode="after")
    def _suits_target(self) -> Self:
        unused = _ACTIVATION_KEYS if self.closes_gap else _GAP_KEYS
        for name in (*unused, *(_OBJECT_KEYS if self.target != "object" else ())):
            value = getattr(self, name)
            given = name in self.model_fields_set
            if given and value != type(self).model_fields[name].default:
                raise ValueError(
                    f"{name} has value {value!r}, which has no meaning with target {self.target!r}"
                )
        if self.target == "object" and self.waits:
            self._fill(_WAITING)
        elif self.closes_gap:
            self._fill({"penalty": RELATIVE_PENALTY})
        return self

    def _fill(self, defaults: Mapping[str, object]) -> None:
        """Set keys that were not given; the model is frozen, and what was not given stays so."""
        for name, value in defaults.items():
            if name not in self.model_fields_set:
                self.__dict__[name] = value
