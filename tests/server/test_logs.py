"""The log's two forms, and that prompts are not in it unless asked for."""

import io
import json
import logging

import pytest

from llamacart.errors import EngineError
from llamacart_server.logs import REQUEST_ID, configure_logging, fields

BODY = {"model": "demo", "prompt": "my secret"}


@pytest.fixture
def log(own_log):
    """Function that sends the log, in a form, to a stream."""

    def configure(form):
        stream = io.StringIO()
        configure_logging(form, stream)
        return stream

    return configure


def records(stream, client=None):
    if client is not None:
        client.get("/health")  # answered once what came before on the connection is over
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_json_record_is_one_line(log):
    stream = log("json")
    token = REQUEST_ID.set("id-1")
    try:
        raise ValueError("broken\nhere")
    except ValueError:
        logging.getLogger("llamacart_server.x").exception("a\n%s", "ü", extra=fields(status=5))
    finally:
        REQUEST_ID.reset(token)
    (record,) = records(stream)
    assert record["time"].endswith("+00:00")
    assert (record["level"], record["logger"]) == ("error", "llamacart_server.x")
    assert (record["message"], record["request_id"], record["status"]) == ("a\nü", "id-1", 5)
    assert "ValueError: broken" in record["exception"]


def test_a_text_record_cannot_forge_another(log):
    stream = log("text")
    logging.getLogger("llamacart_server").info("a\nERROR:    b", extra=fields(x="c\nd"))
    assert stream.getvalue() == 'INFO:     a\\nERROR:    b x="c\\nd"\n'


def test_a_text_record_cannot_steer_a_terminal(log):
    stream = log("text")
    logging.getLogger("llamacart_server").info("a\x1b[2J\x85\u2028\x7f\tü")
    assert stream.getvalue() == "INFO:     a\\x1b[2J\\x85\\u2028\\x7f\\tü\n"


def test_libraries_speak_from_warning_on(log):
    stream = log("text")
    logging.getLogger("other").info("no")
    logging.getLogger("other").warning("yes")
    assert stream.getvalue() == "WARNING:  yes\n"


def test_requests_and_failures_carry_the_id(log, serve, engine):
    stream = log("json")
    client = serve(engine)
    engine.refusals = [EngineError("it broke")]
    client.post("/v1/completions", json=BODY, headers={"X-Request-Id": "id-2"})
    failure, access = records(stream, client)
    assert failure["message"] == "EngineError: it broke"
    assert access["message"] == "POST /v1/completions"
    assert access["status"] == 500
    assert access["client"] == "127.0.0.1"
    assert access["seconds"] >= 0
    assert failure["request_id"] == access["request_id"] == "id-2"


def test_ids_of_requests_do_not_mix(log, serve, engine):
    stream = log("json")
    client = serve(engine)
    for i in range(3):  # on one connection
        client.get("/v1/models", headers={"X-Request-Id": f"id-{i}"})
    assert [record["request_id"] for record in records(stream, client)] == ["id-0", "id-1", "id-2"]


@pytest.mark.parametrize("wanted", [False, True])
def test_prompts_only_when_asked_for(log, serve, engine, wanted):
    stream = log("json")
    client = serve(engine, log_prompts=wanted)
    client.post("/v1/completions", json=BODY)
    client.post("/v1/completions", json={**BODY, "model": "nothing"})
    client.post("/v1/completions", json={**BODY, "max_tokens": "my secret"})
    prompts = [r["prompt"] for r in records(stream, client) if r["message"] == "prompt"]
    assert prompts == (["<bos>my secret"] if wanted else [])
    assert wanted or "secret" not in stream.getvalue()


def test_requests_are_not_logged_when_not_wanted(log, serve, engine):
    stream = log("json")
    client = serve(engine, log_requests=False)
    client.post("/v1/completions", json=BODY)
    assert not records(stream, client)
