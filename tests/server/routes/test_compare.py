"""`compare`: one request, answered without its cartridges and with them, or at several α."""

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
@pytest.mark.parametrize("seed", [None, 7])
def test_one_cartridge_at_several_strengths(client, engine, path, seed):
    alphas = [0, 0.5, -1.25, 0.5]
    answer = post(client, path, compare=alphas, seed=seed, temperature=1).json()
    told = [[c["alpha"] for c in choice["cartridges"]] for choice in answer["choices"]]
    assert told == [[], [0.5], [-1.25], [0.5]]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    asked = [[placed.dose.alpha for placed in request.doses] for request in engine.requests]
    assert asked == told
    assert len({(request.prompt, request.sampling) for request in engine.requests}) == 1
    assert seed is None or engine.requests[0].sampling.seed == seed
    assert [request.sample_dose for request in engine.requests] == [False, True, True, True]


def test_several_prompts_at_several_strengths(client, engine):
    fields = {"prompt": ["a", "bc"], "compare": [0.5, 2], "echo": True}
    choices = post(client, "/v1/completions", **fields).json()["choices"]
    assert [c["cartridges"][0]["alpha"] for c in choices] == [0.5, 2, 0.5, 2]
    assert [c["text"] for c in choices] == ["ahello", "ahello", "bchello", "bchello"]


def test_a_list_keeps_where_the_cartridge_acts(client, engine):
    item = {"id": "french", "apply_to": "generated", "when": ["x"]}
    answer = post(client, "/v1/completions", model="demo", cartridges=[item], compare=[0.25])
    assert answer.json()["choices"][0]["cartridges"][0]["apply_to"] == "generated"
    (placed,) = engine.requests[0].doses
    assert (placed.apply_to, placed.dose.when, placed.dose.alpha) == ("generated", ("x",), 0.25)


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
        ({"compare": []}, "compare"),
        ({"compare": [1, "x"]}, "compare[1]"),
        ({"compare": [1, True]}, "compare[1]"),
        ({"compare": [1, 11]}, "compare[1]"),
        ({"compare": [1], "n": 2}, "n"),
        ({"compare": [1], "model": "demo"}, "compare"),
        ({"compare": [1], "model": "demo:french+formal"}, "compare"),
        ({"compare": [1] * 65}, "compare"),
    ],
)
def test_what_cannot_be_compared(client, engine, path, fields, param):
    response = post(client, path, **fields)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert not engine.requests
