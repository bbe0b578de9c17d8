"""`compare`: one request, answered without its cartridges and with them."""

import json

import pytest

BODIES = {
    "/v1/completions": {"prompt": "a"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}]},
}


def post(client, path, *, model="demo:french@0.5", **fields):
    body = {"model": model, **BODIES[path], "compare": True, **fields}
    return client.post(path, json=body)


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("seed", [None, 7])
def test_base_and_steered_from_one_seed(client, engine, path, seed):
    answer = post(client, path, seed=seed, temperature=1).json()
    base, steered = answer["choices"]
    assert (base["index"], base["cartridges"]) == (0, [])
    assert (steered["index"], steered["cartridges"]) == (1, answer["cartridges"])
    assert answer["cartridges"][0]["id"] == "french"
    one, other = engine.requests
    assert one.doses == ()
    assert [placed.dose.alpha for placed in other.doses] == [0.5]
    assert one.prompt == other.prompt
    assert one.sampling == other.sampling
    assert one.sampling.seed is not None
    assert seed is None or one.sampling.seed == seed
    assert answer["usage"]["prompt_tokens"] == len(one.prompt)


@pytest.mark.parametrize("path", BODIES)
def test_a_stream_says_in_each_last_chunk_what_acted(client, path):
    frames = post(client, path, stream=True).text.removesuffix("\n\n").split("\n\n")[:-1]
    choices = [json.loads(frame.removeprefix("data: "))["choices"][0] for frame in frames]
    last = {c["index"]: c for c in choices if c["finish_reason"]}
    assert [c["id"] for c in last[1]["cartridges"]] == ["french"]
    assert last[0]["cartridges"] == []
    assert all("cartridges" not in c for c in choices if not c["finish_reason"])


def test_several_prompts_are_compared_one_by_one(client, engine):
    choices = post(client, "/v1/completions", prompt=["a", "bc"]).json()["choices"]
    assert [len(choice["cartridges"]) for choice in choices] == [0, 1, 0, 1]
    assert [len(request.prompt) for request in engine.requests] == [2, 2, 3, 3]


@pytest.mark.parametrize("path", BODIES)
def test_other_answers_do_not_have_the_field(client, path):
    answer = post(client, path, compare=False).json()
    assert "cartridges" not in answer["choices"][0]


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": "demo"}, "compare"),
        ({"model": "demo:french@0"}, "compare"),
        ({"n": 2}, "n"),
        ({"compare": "perhaps"}, "compare"),
    ],
)
def test_what_cannot_be_compared(client, engine, path, fields, param):
    response = post(client, path, **fields)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert not engine.requests
