"""`GET /v1/models`: the base and each cartridge as a model, so that any model menu swaps them."""

from fastapi import APIRouter

from llamacart.errors import NotFoundError
from llamacart.values.steering import Dose
from llamacart_server.bodies.answers import CartridgeCard, ModelCard, ModelList
from llamacart_server.engine.request import PlacedDose
from llamacart_server.library.selection import Selection, SteeringFields, select
from llamacart_server.openapi import failures
from llamacart_server.service import Service


def router(service: Service) -> APIRouter:
    """The routes, bound to what they work with."""
    routes = APIRouter()
    base = service.model

    @routes.get("/v1/models")
    async def list_models() -> ModelList:
        selections = [Selection(base.id)]
        for cartridge in service.library:
            dose = PlacedDose(Dose(cartridge, cartridge.metadata.default_alpha))
            selections.append(Selection(f"{base.id}:{cartridge.name}", (dose,)))
        return ModelList(data=[card(selection) for selection in selections])

    # A model id can hold a slash where it was given as hf:<owner>/<repo>/<file>.
    @routes.get("/v1/models/{model_id:path}", responses=failures(NotFoundError))
    async def retrieve_model(model_id: str) -> ModelCard:
        return card(select(model_id, SteeringFields(), base.names, service.library))

    def card(selection: Selection) -> ModelCard:
        return ModelCard(
            id=selection.model_id,
            created=base.created,
            root=base.id,
            parent=base.id if selection.doses else None,
            n_ctx=base.n_ctx,
            max_model_len=base.n_ctx,
            chat_template=base.template.source,
            cartridges=[_cartridge_card(placed.dose) for placed in selection.doses],
        )

    return routes


def _cartridge_card(dose: Dose) -> CartridgeCard:
    metadata = dose.cartridge.metadata
    return CartridgeCard(
        id=metadata.name,
        alpha=dose.alpha,
        default_alpha=metadata.default_alpha,
        hash=dose.cartridge.content_hash,
        description=metadata.description,
    )
