"""Fields that a body does not have: other servers', clients' own, misspelt ones."""

import json

import pytest

from llamacart_server.bodies import foreign

BODIES = {
    "/v1/completions": {"model": "demo", "prompt": "a"},
    "/v1/chat/completions": {"model": "demo", "messages": [{"role": "user", "content": "Hi"}]},
    "/v1/responses": {"model": "demo", "input": "Hi"},
    "/v1/embeddings": {"model": "demo", "input": "Hi"},
}
CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"

CHANGES = {
    "min_tokens": 5,
    "min_new_tokens": 5,
    "stop_token_ids": [5],
    "best_of": 2,
    "use_beam_search": True,
    "num_beams": 4,
    "mirostat": 2,
    "mirostat_mode": 1,
    "repetition_penalty": 1.1,
    "repeat_penalty": 1.1,
    "rep_pen": 1.1,
    "typical_p": 0.9,
    "typ_p": 0.9,
    "tfs_z": 0.9,
    "dry_multiplier": 0.8,
    "xtc_probability": 0.5,
    "dynatemp_range": 0.5,
    "smoothing_factor": 0.2,
    "top_n_sigma": 1,
    "adaptive_target": 0.5,
    "no_repeat_ngram_size": 3,
    "guidance_scale": 1.5,
    "do_sample": False,
    "samplers": ["temperature", "top_k", "top_p", "min_p"],
    "bad_words": ["x"],
    "banned_strings": ["x"],
    "allowed_token_ids": [1],
    "include_stop_str_in_output": True,
    "skip_special_tokens": False,
    "truncate_prompt_tokens": 5,
    "reasoning_effort": "high",
    "think": True,
    "thinking": {"type": "enabled", "budget_tokens": 1},
    "regex": "a+",
    "n_predict": 5,
    "max_new_tokens": 5,
    "stop_sequence": ["x"],
    "temprature": 0,
    "topp": 0.5,
    "frobnicate": {"x": 1},
}

# What clients send without being told to, with their own defaults.
DEFAULTS = {
    "vLLM": {
        "best_of": 1,
        "use_beam_search": False,
        "repetition_penalty": 1.0,
        "length_penalty": 1.0,
        "early_stopping": False,
        "min_tokens": 0,
        "stop_token_ids": [],
        "include_stop_str_in_output": False,
        "skip_special_tokens": True,
        "spaces_between_special_tokens": True,
        "truncate_prompt_tokens": None,
        "prompt_logprobs": None,
        "allowed_token_ids": None,
        "bad_words": [],
        "priority": 0,
        "request_id": "r",
        "return_tokens_as_token_ids": False,
        "documents": None,
    },
    "llama-server's pages": {
        "cache_prompt": True,
        "reasoning_format": "none",
        "samplers": ["top_k", "typ_p", "top_p", "min_p", "temperature"],
        "dynatemp_range": 0,
        "dynatemp_exponent": 1,
        "xtc_probability": 0,
        "xtc_threshold": 0.1,
        "typ_p": 1,
        "repeat_last_n": 64,
        "repeat_penalty": 1,
        "dry_multiplier": 0,
        "dry_base": 1.75,
        "dry_allowed_length": 2,
        "dry_penalty_last_n": -1,
        "mirostat": 0,
        "mirostat_tau": 5,
        "mirostat_eta": 0.1,
        "timings_per_token": True,
        "return_progress": True,
        "backend_sampling": False,
        "id_slot": -1,
    },
    "SillyTavern": {
        "max_new_tokens": 80,
        "max_tokens": 80,
        "n_predict": 80,
        "num_predict": 80,
        "typical_p": 1,
        "typical": 1,
        "rep_pen": 1,
        "rep_pen_range": 0,
        "repetition_penalty": 1,
        "repetition_penalty_range": 0,
        "skew": 0,
        "min_tokens": 0,
        "min_length": 0,
        "add_bos_token": True,
        "ban_eos_token": False,
        "skip_special_tokens": True,
        "dynamic_temperature": False,
        "smoothing_factor": 0,
        "smoothing_curve": 1,
        "dry_sequence_breakers": '["\\n"]',
        "top_a": 0,
        "tfs": 1,
        "mirostat_mode": 0,
        "nsigma": 0,
        "top_n_sigma": 0,
        "min_keep": 0,
        "adaptive_target": -0.01,
        "adaptive_decay": 0.9,
        "guidance_scale": 1,
        "negative_prompt": "",
        "grammar_string": "",
        "custom_token_bans": "",
        "banned_strings": [],
        "stopping_strings": ["\nUser:"],
        "stop": ["\nUser:"],
        "truncation_length": 2048,
        "num_ctx": 2048,
        "include_reasoning": True,
        "api_type": "generic",
        "api_server": "http://127.0.0.1:8080",
    },
    "OpenAI's": {
        "store": True,
        "metadata": {"a": "b"},
        "service_tier": "auto",
        "safety_identifier": "s",
        "prompt_cache_key": "k",
        "reasoning_effort": None,
        "verbosity": "medium",
        "user": "u",
    },
}


def refused(response, param):
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == param, error
    assert param in error["message"]
    return error["message"]


@pytest.mark.parametrize("path", BODIES)
def test_what_would_change_the_answer_is_done_or_refused(client, engine, path):
    for name, value in CHANGES.items():
        refused(client.post(path, json={**BODIES[path], name: value}), name)
        assert client.post(path, json={**BODIES[path], name: None}).status_code == 200, name
    assert len(engine.requests) == (0 if "embed" in path else len(CHANGES))


@pytest.mark.parametrize("path", list(BODIES)[:2])
@pytest.mark.parametrize("client_name", DEFAULTS)
def test_what_clients_send_by_default_passes(client, path, client_name):
    response = client.post(path, json={**BODIES[path], **DEFAULTS[client_name]})
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("path", BODIES)
def test_harmless_fields_pass_with_any_value(client, engine, path):
    declared = {"user", "metadata", "store", "safety_identifier", "prompt_cache_key"}
    names = frozenset().union(*foreign.HARMLESS.values()) - declared
    assert len(names) > 50
    body = {**BODIES[path], **{name: {"any": [1]} for name in names}}
    assert client.post(path, json=body).status_code == 200


def test_no_field_is_in_two_tables():
    tables = [*foreign.HARMLESS.values(), foreign.NO_OPS.keys(), foreign.SYNONYMS.keys()]
    names = [name for table in tables for name in table]
    assert len(names) == len(set(names))


def test_the_document_lists_what_is_accepted(client):
    text = client.get("/openapi.json").json()["info"]["description"]
    for name in ("metadata", "repetition_penalty", "mirostat_tau", "n_predict"):
        assert f"`{name}`" in text


@pytest.mark.parametrize(
    ("fields", "hint"),
    [
        ({"temprature": 0}, "did you mean 'temperature'?"),
        ({"max_token": 5}, "did you mean 'max_tokens'?"),
        ({"cartridge_": "french"}, "did you mean 'cartridge'?"),
        ({"frobnicate": 1}, "is not a field that this server knows"),
        ({"n_predict": 5, "max_tokens": 6}, "is called 'max_tokens' here"),
        ({"repetition_penalty": 1.1}, "only 1, which changes nothing, is"),
    ],
)
def test_the_reason_helps(client, fields, hint):
    name = next(iter(fields))
    assert hint in refused(client.post(CHAT, json={**BODIES[CHAT], **fields}), name)


HI = {"role": "user", "content": "Hi"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        *(
            (path, {"cartridges": [{"id": "french", "strength": 0.5}]}, "cartridges[0].strength")
            for path in BODIES
        ),
        (CHAT, {"cartridges": [{"id": "french"}, {"id": "formal", "x": 1}]}, "cartridges[1].x"),
        (CHAT, {"stream_options": {"usage": True}}, "stream_options.usage"),
        (CHAT, {"messages": [HI, {**HI, "colour": 1}]}, "messages[1].colour"),
        (
            CHAT,
            {"messages": [{**HI, "content": [{"type": "text", "text": "x", "size": 1}]}]},
            "messages[0].content[0].size",
        ),
        (CHAT, {"tools": [{**TOOL, "x": 1}]}, "tools[0].x"),
        (CHAT, {"tools": [{**TOOL, "function": {"name": "f", "x": 1}}]}, "tools[0].function.x"),
        (CHAT, {"response_format": {"type": "text", "x": 1}}, "response_format.x"),
        (RESPONSES, {"input": [{**HI, "x": 1}]}, "input[0].x"),
        (RESPONSES, {"text": {"x": 1}}, "text.x"),
        (RESPONSES, {"tools": [{"type": "function", "name": "f", "x": 1}]}, "tools[0].x"),
    ],
)
def test_nested_objects_follow_the_rule(client, engine, path, fields, param):
    refused(client.post(path, json={**BODIES[path], **fields}), param)
    assert not engine.requests


def test_the_hint_of_a_nested_field(client):
    body = {**BODIES[CHAT], "cartridges": [{"id": "french", "alpa": 0.5}]}
    message = refused(client.post(CHAT, json=body), "cartridges[0].alpa")
    assert message == (
        "'cartridges[0].alpa': is not a field that this server knows; did you mean 'alpha'?"
    )


def test_an_answer_may_be_sent_back(client, engine):
    """As SDKs do it: the whole message of an answer, with what they add of their own."""
    said = client.post(CHAT, json=BODIES[CHAT]).json()["choices"][0]["message"]
    assistant = {**said, "reasoning_content": "", "provider_specific_fields": {"refusal": None}}
    calling = {"role": "assistant", "content": None, "tool_calls": [{**CALL, "index": 0}]}
    result = {"role": "tool", "tool_call_id": "1", "name": "f", "content": "3"}
    messages = [HI, assistant, HI, calling, result]
    assert client.post(CHAT, json={"model": "demo", "messages": messages}).status_code == 200
    output = client.post(RESPONSES, json=BODIES[RESPONSES]).json()["output"]
    given = {"model": "demo", "input": [HI, *output, HI]}
    assert client.post(RESPONSES, json=given).status_code == 200


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize"])
def test_token_routes_follow_the_rule(client, path):
    body = {"content": "a"} if path == "/tokenize" else {"tokens": [107]}
    assert client.post(path, json={**body, "model": "demo"}).status_code == 200
    refused(client.post(path, json={**body, "frobnicate": 1}), "frobnicate")


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("name", ["\ud800", "str\ud800eam", "\x00", "", "a.b[0]", "{reason}", "é"])
def test_names_of_odd_characters(client, path, name):
    content = json.dumps({**BODIES[path], name: 1})
    response = client.post(path, content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == name


def test_a_long_name_costs_little(client):
    name = "temperature" * 10_000
    refused(client.post(CHAT, json={**BODIES[CHAT], name: 1}), name)
