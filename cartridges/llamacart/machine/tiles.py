"""Whether llama.cpp takes products of K-quants by tiles: quicker, but a row depends on how many.

llama.cpp asks the environment once in a process, at the first product of 8 rows or more, whichever
model that is for.
"""

from __future__ import annotations

import os

VARIABLE = "GGML_CPU_TILED_MM"

given = VARIABLE in os.environ
"""Whether somebody has said so for this process, who then is right."""

os.environ.setdefault(VARIABLE, "0")


def take_tiles() -> None:
    """Take tiles in this process, which will load no batch-invariant model.

    Before its first product. Nothing is changed where the environment has said how it is to be.
    """
    if not given:
        os.environ[VARIABLE] = "1"


def given_environment() -> dict[str, str]:
    """The environment as it was given to this process, for another one that decides for itself."""
    environment = dict(os.environ)
    if not given:
        environment.pop(VARIABLE, None)
    return environment


def takes_tiles() -> bool:
    """Whether products are taken by tiles."""
    return os.environ[VARIABLE] != "0"
