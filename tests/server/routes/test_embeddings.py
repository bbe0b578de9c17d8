"""`POST /v1/embeddings`."""

import base64

import numpy as np
import openai
import pytest


def post(client, **fields):
    return client.post("/v1/embeddings", json={"model": "demo", "input": "abc", **fields})


def test_one_text(client, engine, embedder):
    embedder.log.clear()
    answer = post(client).json()
    assert answer["object"] == "list"
    assert answer["data"] == [{"object": "embedding", "index": 0, "embedding": [4.0, 0.0, 0.5]}]
    assert answer["usage"] == {"prompt_tokens": 4, "total_tokens": 4}
    assert answer["model"] == "fake-1b"
    assert answer["cartridges"] == []
    assert embedder.log == ["begin", "advance", "drop"]


def test_long_texts_take_turns_with_the_engine(client, engine, embedder):
    embedder.log.clear()
    answer = post(client, input=["x" * 9, "y"]).json()
    assert [item["embedding"][0] for item in answer["data"]] == [10.0, 2.0]
    assert embedder.log.count("advance") == 3 + 1
    assert embedder.log.count("begin") == embedder.log.count("drop") == 2


@pytest.mark.parametrize("given", [[10, 11, 12], [[10, 11, 12]]])
def test_tokens(client, given):
    answer = post(client, input=given).json()
    assert answer["data"][0]["embedding"][0] == 3.0
    assert answer["usage"]["prompt_tokens"] == 3


def test_a_cartridge_acts_and_is_named(client):
    answer = post(client, model="demo:french@0.5").json()
    assert answer["data"][0]["embedding"] == [4.0, 0.5, 0.5]
    assert answer["model"] == "fake-1b:french@0.5"
    assert [(c["id"], c["alpha"]) for c in answer["cartridges"]] == [("french", 0.5)]


def test_base64_is_of_little_endian_floats(client):
    (item,) = post(client, encoding_format="base64").json()["data"]
    vector = np.frombuffer(base64.b64decode(item["embedding"]), "<f4")
    assert vector.tolist() == [4.0, 0.0, 0.5]


def test_the_openai_client(client):
    with openai.OpenAI(base_url=f"{client.base_url}/v1", api_key="none") as sdk:
        answer = sdk.embeddings.create(model="demo", input=["a", "bc"])
        assert [item.embedding for item in answer.data] == [[2.0, 0.0, 0.5], [3.0, 0.0, 0.5]]
        assert sdk.embeddings.create(model="demo", input="a", dimensions=3).data
        with pytest.raises(openai.BadRequestError, match="dimensions has value 7"):
            sdk.embeddings.create(model="demo", input="a", dimensions=7)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": ["a"] * 5}, "input"),
        ({"input": [99999]}, "input"),
        ({"input": "x" * 64}, "input"),
        ({"input": 7}, "input"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"dimensions": 0}, "dimensions"),
        ({"cartridges": [{"id": "french", "apply_to": "generated"}]}, "cartridges"),
    ],
)
def test_what_cannot_be_embedded(client, embedder, fields, param):
    embedder.log.clear()
    response = post(client, **fields)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert not embedder.log


def test_an_unknown_cartridge(client):
    assert post(client, model="demo:klingon").status_code == 404


def test_a_server_without_an_embedder_has_no_such_route(serve, engine):
    assert post(serve(engine)).status_code == 404
