import json

import pytest

from llamacart_server.ray_app.named import named

NAMES = ("base", "hf:a/b/c")


@pytest.mark.parametrize(
    ("fields", "ids"),
    [
        ({"model": "base"}, ()),
        ({"model": "base:french"}, ("french",)),
        ({"model": "hf:a/b/c:french@0.5+formal"}, ("french", "formal")),
        ({"model": "base", "cartridge": "french", "alpha": 1}, ("french",)),
        ({"model": "base:a", "cartridges": [{"id": "b"}, {"id": "a"}]}, ("a", "b")),
        ({"model": "other:french"}, ()),
        ({"model": "base:"}, ()),
        ({"model": 3, "cartridge": [], "cartridges": [3, {"id": 4}, {}]}, ()),
        ([], ()),
    ],
)
def test_what_a_body_names(fields, ids):
    assert named("/v1/completions", json.dumps(fields).encode(), NAMES) == ids


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000])
def test_a_body_that_is_none(body):
    assert named("/v1/completions", body, NAMES) == ()


def test_a_path_names_a_model():
    assert named("/v1/models/base:french", b"", NAMES) == ("french",)
    assert named("/v1/models/base", b"", NAMES) == ()
