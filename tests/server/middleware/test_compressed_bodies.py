"""Bodies that are no JSON, too much of it, or compressed: read, or refused with a reason."""

import gzip
import json
import zlib

import pytest

from llamacart_server.middleware import compressed_bodies as bodies

URL = "/v1/completions"
BODY = {"model": "demo", "prompt": "a"}
RAW = json.dumps(BODY).encode()


def failure(response, status=400):
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    error = response.json()["error"]
    assert error["param"] is None
    return error["message"]


def post(client, content, kind="application/json", **headers):
    return client.post(URL, content=content, headers={"Content-Type": kind, **headers})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the body is empty or null; a JSON object is needed"),
        (b"null", "the body is empty or null; a JSON object is needed"),
        (b"[]", "the body is a JSON array; a JSON object is needed"),
        (b"3", "the body is a JSON number; a JSON object is needed"),
        (b'"x"', "the body is a JSON string; a JSON object is needed"),
        (b"true", "the body is a JSON boolean; a JSON object is needed"),
        (b"{", "not valid JSON: Expecting property name enclosed in double quotes at position 1"),
        (b"{'model': 1}", "not valid JSON: Expecting property name"),
        (b'{"model": "demo"', "not valid JSON: Expecting ',' delimiter at position 16"),
        (RAW + b"}", "not valid JSON: Extra data at position 32"),
        (b"\xff", "the body is not UTF-8: byte 0xff at position 0"),
        (b'{"model": "d\xe9mo"}', "the body is not UTF-8: byte 0xe9 at position 12"),
        (b'{"model": ' + b"[" * 5000 + b"]" * 5000 + b"}", "the body is nested too deeply"),
        (b"[" * 100_000, "the body is nested too deeply"),
        (
            b'{"model": "demo", "seed": ' + b"9" * 5000 + b"}",
            "the body is too long in a number; at most 4300 digits work",
        ),
    ],
)
def test_each_has_its_own_reason(client, engine, content, reason):
    assert reason in failure(post(client, content))
    assert not engine.requests


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "x"])
def test_another_content_type(client, kind):
    message = failure(post(client, RAW, kind), 415)
    assert repr(kind) in message
    assert "Content-Type: application/json is needed" in message


def test_of_a_key_that_occurs_twice_the_last_counts(client, engine):
    content = RAW[:-1] + b', "max_tokens": 3, "max_tokens": 5}'
    assert post(client, content).status_code == 200
    assert engine.requests[0].max_tokens == 5


def test_a_byte_order_mark_is_no_part_of_it(client):
    assert post(client, b"\xef\xbb\xbf" + RAW).status_code == 200


ENCODED = [
    ("gzip", gzip.compress(RAW)),
    ("GZIP", gzip.compress(RAW)),
    ("x-gzip", gzip.compress(RAW)),
    ("gzip", gzip.compress(RAW[:9]) + gzip.compress(RAW[9:])),
    ("deflate", zlib.compress(RAW)),
    ("identity", RAW),
]


@pytest.mark.parametrize("case", range(len(ENCODED)))
@pytest.mark.parametrize("chunk", [None, 1, 7])
def test_compressed_bodies_are_decoded(client, engine, case, chunk):
    encoding, content = ENCODED[case]
    pieces = content
    if chunk is not None:
        pieces = (content[i : i + chunk] for i in range(0, len(content), chunk))
    assert post(client, pieces, **{"Content-Encoding": encoding}).status_code == 200
    assert len(engine.requests) == 1


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "compress"])
def test_other_encodings_are_refused(client, encoding):
    message = failure(post(client, RAW, **{"Content-Encoding": encoding}), 415)
    assert message == f"Content-Encoding is {encoding!r}; gzip, deflate or none is needed"


@pytest.mark.parametrize(
    ("encoding", "content", "reason"),
    [
        ("gzip", RAW, "the body is not valid gzip data"),
        ("deflate", gzip.compress(RAW), "the body is not valid deflate data"),
        ("gzip", gzip.compress(RAW)[:-4], "the body is not whole gzip data"),
        ("gzip", gzip.compress(RAW) + b"x", "the body is not"),
    ],
)
def test_what_is_not_encoded_as_it_says(client, encoding, content, reason):
    assert reason in failure(post(client, content, **{"Content-Encoding": encoding}))


def test_a_large_body_comes_out_whole(client, engine, monkeypatch):
    monkeypatch.setattr(bodies, "PIECE_BYTES", 100)
    content = json.dumps({**BODY, "user": "é" * 5000 + "x" * 5000}).encode()
    assert post(client, gzip.compress(content), **{"Content-Encoding": "gzip"}).status_code == 200


def test_an_empty_body_that_is_called_compressed(client):
    assert "the body is empty or null" in failure(post(client, b"", **{"Content-Encoding": "gzip"}))


def test_a_bomb_is_refused_before_it_is_large(serve, engine, monkeypatch):
    given = []
    decode = bodies.BodyReader._decode

    def noting(self, decoder):
        piece, decoder = decode(self, decoder)
        given.append(len(piece))
        return piece, decoder

    monkeypatch.setattr(bodies.BodyReader, "_decode", noting)
    client = serve(engine, max_body_bytes=10_000)
    monkeypatch.setattr(bodies, "PIECE_BYTES", 4096)
    bomb = gzip.compress(bytes(2**24))
    for content in (bomb, iter([bomb])):  # larger than the limit as it is, or once decoded
        failure(post(client, content, **{"Content-Encoding": "gzip"}), 413)
    small = gzip.compress(bytes(2**21))
    assert len(small) < 10_000
    failure(post(client, small, **{"Content-Encoding": "gzip"}), 413)
    assert sum(given) <= 10_000
    assert max(given) <= 4096


def test_a_compressed_upload(serve, engine):
    """The route that takes files, too, reads through the decoder: this is no cartridge."""
    client = serve(engine, admin_key="boss")
    headers = {
        "Authorization": "Bearer boss",
        "Content-Type": "application/octet-stream",
        "Content-Encoding": "gzip",
    }
    answer = client.post("/v1/cartridges", content=gzip.compress(b"JPEG" * 9), headers=headers)
    assert answer.status_code == 400
    assert "starts with b'JPEG'" in answer.json()["error"]["message"]
