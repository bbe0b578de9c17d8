"""The scheduler's limits: a value that cannot be is named."""

from __future__ import annotations

import pytest

from llamacart.errors import InputError
from llamacart_server.engine.limits import SchedulerConfig


def test_config_names_what_is_wrong() -> None:
    limits = {"n_ctx": 4096, "n_batch": 64, "n_sequences": 4}
    wrong = {"n_sequences": 65, "prefill_rows": 0, "n_cached": -1, "host_cache_bytes": -1}
    for name, value in wrong.items():
        with pytest.raises(InputError, match=f"{name} has value {value}"):
            SchedulerConfig(**{**limits, name: value})
