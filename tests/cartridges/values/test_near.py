from __future__ import annotations

import pytest

from llamacart.values.near import did_you_mean


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("assitant", "; did you mean 'assistant'?"),
        ("USER", "; did you mean 'user'?"),
        ("tool", ""),
        (3, ""),
        (None, ""),
    ],
)
def test_did_you_mean(value: object, said: str) -> None:
    assert did_you_mean(value, ("system", "user", "assistant")) == said
