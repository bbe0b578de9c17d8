"""Which cartridges a request asks for: by its model id, by fields of its body, or both.

    model id   base[:cartridge[@alpha][+cartridge[@alpha]...]]
    body       "cartridges": [{"id": ..., "alpha": ..., "apply_to": ..., "when": [...]}]
               "cartridge": ..., "alpha": ...       the short form, for one

Where both speak they must agree: what one leaves out (an alpha, where to apply) the other
may add, what both state must be the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from llamacart.cartridge import Cartridge, check_alpha
from llamacart.errors import (
    AlphaError,
    CartridgeFormatError,
    InputError,
    ModelNotFoundError,
    NotFoundError,
)
from llamacart.file.condition import check_when
from llamacart.file.format import WHEN
from llamacart.values.steering import Dose
from llamacart_server.engine.request import ApplyTo, PlacedDose

if TYPE_CHECKING:
    from collections.abc import Sequence


MOST_WHEN = 64
"""Texts that a request may have a cartridge wait for: each costs a search in every prompt."""


class Catalogue(Protocol):
    """Where cartridges are looked up."""

    def get(self, cartridge_id: str, *, param: str | None = None) -> Cartridge:
        """The cartridge of that id, or `NotFoundError`."""
        ...


@dataclass(frozen=True)
class Choice:
    """One cartridge as a request names it.

    Attributes:
        id: The cartridge's id.
        alpha: None where not stated.
        apply_to: None where not stated.
        param: The request field that names it.
        when: What it is to wait for; None where not stated, for what the cartridge itself says.
    """

    id: str
    alpha: float | None = None
    apply_to: ApplyTo | None = None
    param: str = "model"
    when: tuple[str, ...] | None = None


@dataclass(frozen=True)
class SteeringFields:
    """The fields of a body that choose cartridges; None where absent."""

    cartridges: tuple[Choice, ...] | None = None
    cartridge: str | None = None
    alpha: float | None = None


@dataclass(frozen=True)
class Selection:
    """What a request resolved to, or what a choice of it did.

    Attributes:
        model_id: The model id that says a request in full; an alpha that is the default is left
            out.
        doses: The cartridges, also those with alpha 0.
    """

    model_id: str
    doses: tuple[PlacedDose, ...] = ()

    @property
    def acting(self) -> tuple[PlacedDose, ...]:
        """The doses that do something."""
        return tuple(placed for placed in self.doses if placed.dose.alpha != 0.0)


def select(
    model: str, fields: SteeringFields, names: Sequence[str], catalogue: Catalogue
) -> Selection:
    """Resolve a request's model id and steering fields.

    Args:
        model: The request's model id.
        fields: What the body says.
        names: The base model's id, then its aliases.
        catalogue: The cartridges there are.

    Raises:
        ModelNotFoundError: The model id names a base model or cartridge that is not there.
        NotFoundError: The body names such a cartridge.
        AlphaError: An alpha is not a finite number within ±10.
        InputError: The fields contradict each other or the model id.
    """
    in_model = parse_model_id(model, names)
    in_body = _body_choices(fields)
    _check_distinct(in_model or ())
    _check_distinct(in_body or ())
    if in_body is None:
        chosen = _with_alpha(in_model, fields.alpha, model)
    else:
        chosen = _agree(in_model, in_body, model) if in_model is not None else in_body
    doses = tuple(_resolve(choice, catalogue) for choice in chosen)
    return Selection(_full_id(names[0], doses), doses)


def comparison(
    wanted: bool | Sequence[float] | None, selection: Selection
) -> tuple[Selection, ...]:
    """What `compare` asks for: one selection for each choice; none where it asks for nothing.

    Args:
        wanted: True: without the cartridges, then with them. Numbers: the one cartridge at each of
            these strengths.
        selection: What the request resolved to.

    Raises:
        AlphaError: A strength is not a finite number within ±10.
        InputError: Nothing acts, or there is not one cartridge for several strengths.
    """
    if not wanted:
        return ()
    if wanted is True:
        if not selection.acting:
            raise InputError(
                "compare is true, but no cartridge acts on this request", param="compare"
            )
        return replace(selection, doses=()), selection
    for i, alpha in enumerate(wanted):
        check_alpha(alpha, name=f"compare[{i}]")
    if len(selection.doses) != 1:
        raise InputError(
            f"compare has {len(wanted)} values of alpha, which takes a request with one cartridge; "
            f"this one names {len(selection.doses)}",
            param="compare",
        )
    (placed,) = selection.doses
    each = (replace(placed, dose=replace(placed.dose, alpha=alpha)) for alpha in wanted)
    return tuple(replace(selection, doses=(one,)) for one in each)


def parse_model_id(model: str, names: Sequence[str]) -> tuple[Choice, ...] | None:
    """The cartridges that a model id names; None where it is a base id alone.

    Raises:
        ModelNotFoundError: It begins with none of `names`.
        InputError: What follows is not of the form `cartridge[@alpha]`, joined by `+`.
    """
    for name in sorted(names, key=len, reverse=True):  # an alias such as hf:a/b/c holds a colon
        if model == name:
            return None
        if model.startswith(f"{name}:"):
            return tuple(_parse_choice(t, model) for t in model[len(name) + 1 :].split("+"))
    own = names[0]
    raise ModelNotFoundError(
        f"no model {model!r}; this server has {own!r}, and '{own}:NAME' with a cartridge NAME",
        param="model",
    )


def _parse_choice(text: str, model: str) -> Choice:
    cartridge_id, at, number = text.partition("@")
    if not cartridge_id:
        raise InputError(
            f"model {model!r} is not of the form base:cartridge[@alpha][+cartridge[@alpha]...]",
            param="model",
        )
    if not at:
        return Choice(cartridge_id)
    try:
        alpha = check_alpha(float(number), name="alpha")
    except ValueError:
        raise AlphaError(
            f"model {model!r} has alpha {number!r}, which is not a number", param="model"
        ) from None
    except AlphaError as error:
        raise AlphaError(f"model {model!r}: {error.message}", param="model") from None
    return Choice(cartridge_id, alpha)


def _body_choices(fields: SteeringFields) -> tuple[Choice, ...] | None:
    if fields.alpha is not None:
        check_alpha(fields.alpha)
    for choice in fields.cartridges or ():
        if choice.alpha is not None:
            check_alpha(choice.alpha, name=f"{choice.param}.alpha")
        _check_when(choice)
    if fields.cartridges is not None:
        for name in ("cartridge", "alpha"):
            if getattr(fields, name) is not None:
                raise InputError(
                    f"{name!r} is the short form and cannot go with 'cartridges'; give one",
                    param=name,
                )
        return fields.cartridges
    if fields.cartridge is not None:
        return (Choice(fields.cartridge, fields.alpha, param="cartridge"),)
    return None


def _check_when(choice: Choice) -> None:
    texts, param = choice.when or (), f"{choice.param}.when"
    if len(texts) > MOST_WHEN:
        raise InputError(
            f"{param!r} names {len(texts)} texts; at most {MOST_WHEN} are allowed", param=param
        )
    try:
        check_when(texts)
    except CartridgeFormatError as error:
        message = error.message.replace(f"key {WHEN!r}", repr(param))
        raise InputError(message.removesuffix(f" [{error.rule}]"), param=param) from None


def _with_alpha(
    in_model: tuple[Choice, ...] | None, alpha: float | None, model: str
) -> tuple[Choice, ...]:
    """What the model id names, with the body's lone `alpha` applied to it."""
    if alpha is None:
        return in_model or ()
    if in_model is None:
        raise InputError("'alpha' is given, but no cartridge", param="alpha")
    if len(in_model) > 1:
        raise InputError(
            f"'alpha' is given, but model {model!r} names {len(in_model)} cartridges; "
            "use 'cartridges'",
            param="alpha",
        )
    return _agree(in_model, (Choice(in_model[0].id, alpha, param="alpha"),), model)


def _agree(
    in_model: tuple[Choice, ...], in_body: tuple[Choice, ...], model: str
) -> tuple[Choice, ...]:
    """The body's choices with the model id's alphas filled in, in the model id's order."""
    by_id = {choice.id: choice for choice in in_body}
    if by_id.keys() != {choice.id for choice in in_model}:
        field = in_body[0].param.partition("[")[0] if in_body else "cartridges"
        named = ", ".join(map(repr, by_id)) or "none"
        raise InputError(f"{field!r} names {named}, which contradicts model {model!r}", param=field)
    merged = []
    for stated in in_model:
        wanted = by_id[stated.id]
        if None not in (stated.alpha, wanted.alpha) and stated.alpha != wanted.alpha:
            raise InputError(
                f"{wanted.param!r} gives {wanted.id!r} alpha {wanted.alpha:g}, which contradicts "
                f"model {model!r}",
                param=wanted.param,
            )
        alpha = stated.alpha if wanted.alpha is None else wanted.alpha
        merged.append(Choice(wanted.id, alpha, wanted.apply_to, stated.param, wanted.when))
    return tuple(merged)


def _check_distinct(choices: tuple[Choice, ...]) -> None:
    seen: set[str] = set()
    for choice in choices:
        if choice.id in seen:
            raise InputError(f"cartridge {choice.id!r} is named twice", param=choice.param)
        seen.add(choice.id)


def _resolve(choice: Choice, catalogue: Catalogue) -> PlacedDose:
    try:
        cartridge = catalogue.get(choice.id, param=choice.param)
    except NotFoundError as error:
        if choice.param != "model":
            raise
        # OpenAI's code for it, by which clients tell it from other 404s.
        raise ModelNotFoundError(error.message, param="model") from None
    alpha = cartridge.metadata.default_alpha if choice.alpha is None else choice.alpha
    return PlacedDose(Dose(cartridge, alpha, choice.when), choice.apply_to or "all")


def _full_id(base: str, doses: tuple[PlacedDose, ...]) -> str:
    parts = []
    for placed in doses:
        cartridge, alpha = placed.dose.cartridge, placed.dose.alpha
        default = alpha == cartridge.metadata.default_alpha
        parts.append(cartridge.name if default else f"{cartridge.name}@{_shortest(alpha)}")
    return f"{base}:{'+'.join(parts)}" if parts else base


def _shortest(alpha: float) -> str:
    """Digits that read back as `alpha`; within ±10 they hold no plus sign."""
    return repr(float(alpha)).removesuffix(".0")
