"""Several choices for one prompt."""

import json

import pytest

from llamacart_server.engine.request import GenerationReport

BODIES = {
    "/v1/completions": {"model": "demo", "prompt": "a"},
    "/v1/chat/completions": {"model": "demo", "messages": [{"role": "user", "content": "Hi"}]},
}
COMPLETIONS, CHAT = BODIES


def post(client, path, **fields):
    response = client.post(path, json={**BODIES[path], **fields})
    assert response.status_code == 200, response.text
    return response


def chunks(response):
    frames = response.text.removesuffix("\n\n").split("\n\n")
    assert frames.pop() == "data: [DONE]"
    return [json.loads(frame.removeprefix("data: ")) for frame in frames]


@pytest.mark.parametrize("path", BODIES)
def test_choices_share_the_prompt_and_differ_in_their_seeds(client, engine, path):
    body = post(client, path, n=3, seed=2**32 - 3).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert len({request.prompt for request in engine.requests}) == 1
    # Seeds are folded below 2³²−1, which llama.cpp takes for "random".
    assert [r.sampling.seed for r in engine.requests] == [2**32 - 3, 2**32 - 2, 0]


def test_without_a_seed_each_choice_draws_its_own(client, engine):
    post(client, CHAT, n=2)
    assert [r.sampling.seed for r in engine.requests] == [None, None]


@pytest.mark.parametrize("path", BODIES)
def test_usage_counts_a_shared_prompt_once(client, engine, path):
    engine.report = GenerationReport(cached_tokens=1)
    alone = post(client, path).json()["usage"]
    usage = post(client, path, n=3).json()["usage"]
    assert usage["prompt_tokens"] == alone["prompt_tokens"]
    assert usage["completion_tokens"] == 3 * alone["completion_tokens"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == 1


def test_several_prompts_have_their_choices_side_by_side(client, engine):
    body = post(client, COMPLETIONS, prompt=["a", "bc"], n=2, best_of=2).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    assert [len(r.prompt) for r in engine.requests] == [2, 2, 3, 3]
    assert body["usage"]["prompt_tokens"] == 2 + 3


def test_a_chat_streams_each_choice_with_its_role_and_one_end(client):
    streamed = chunks(post(client, CHAT, n=3, stream=True))
    for index in range(3):
        choices = [c["choices"][0] for c in streamed if c["choices"][0]["index"] == index]
        assert choices[0]["delta"] == {"role": "assistant", "content": ""}
        assert all("role" not in c["delta"] for c in choices[1:])
        assert "".join(c["delta"].get("content", "") for c in choices) == "hello"
        reasons = [c["finish_reason"] for c in choices]
        assert reasons == [None] * (len(choices) - 1) + ["stop"]
