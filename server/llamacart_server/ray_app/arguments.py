"""What the application is told: of Ray, and of the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llamacart.errors import InputError
from llamacart_server.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llamacart_server.settings import ServeSettings


class FleetSettings(BaseModel):
    """What Ray is told; everything else is a setting of `llamacart serve`.

    Attributes:
        min_replicas: Replicas that are always there.
        max_replicas: Most replicas.
        num_cpus: Of a replica; its threads are as many.
        max_cartridges: Most cartridges of a replica, but for those in use.
        target_ongoing: Requests of a replica above which another one is started; None: as many as
            it computes together (`parallel`).
        affinity: `cartridge`: requests go where their cartridge is. `session`: those with one
            `X-Session-Id` go to one replica, those without one go by cartridge. `none`: where
            least is to be done.
    """

    model_config = ConfigDict(extra="forbid")

    min_replicas: int = Field(1, ge=1)
    max_replicas: int = Field(1, ge=1)
    num_cpus: float = Field(1, gt=0)
    max_cartridges: int = Field(16, ge=1)
    target_ongoing: float | None = Field(None, gt=0)
    affinity: Literal["cartridge", "session", "none"] = "cartridge"


def read_arguments(args: Mapping[str, Any]) -> tuple[FleetSettings, ServeSettings]:
    """Both kinds of settings from arguments by name.

    Args:
        args: Fields of `FleetSettings`, and settings of `llamacart serve` by their names in a
            configuration file.

    Raises:
        InputError: A setting is not valid.
    """
    own = {name: value for name, value in args.items() if name in FleetSettings.model_fields}
    try:
        fleet = FleetSettings(**own)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        raise InputError(
            f"setting {name} has value {first['input']!r}: {first['msg']}", param=name
        ) from None
    if fleet.max_replicas < fleet.min_replicas:
        fleet = fleet.model_copy(update={"max_replicas": fleet.min_replicas})
    return fleet, load_settings(**{name: v for name, v in args.items() if name not in own})
