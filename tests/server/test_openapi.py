"""The OpenAPI document: true of every route, and its examples run."""

import pytest

from llamacart_server.openapi import operations

JSON = "application/json"
ERROR = {"$ref": "#/components/schemas/ErrorBody"}


@pytest.fixture
def document(client):
    return client.get("/openapi.json").json()


def examples(document, content):
    schema = content["schema"]
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema["examples"]


def test_every_example_runs(client, engine, document):
    n_sent = 0
    for path, operation in operations(document):
        contents = operation.get("requestBody", {}).get("content", {})
        for body in examples(document, contents[JSON]) if contents else ():
            response = client.post(path, json=body)
            # The client has no admin key.
            assert response.status_code == (403 if "403" in operation["responses"] else 200)
            assert (
                response.headers["content-type"].partition(";")[0]
                in (operation["responses"][str(response.status_code)]["content"])
            )
            n_sent += 1
    assert n_sent >= 10


def test_examples_name_the_model_that_is_served(document):
    for name in ("ChatBody", "CompletionBody"):
        bodies = document["components"]["schemas"][name]["examples"]
        assert {body["model"] for body in bodies} == {"fake-1b"}


def test_the_errors_of_fastapi_are_not_in_it(document):
    schemas = document["components"]["schemas"]
    assert not {"HTTPValidationError", "ValidationError"} & schemas.keys()
    assert not any("422" in operation["responses"] for _, operation in operations(document))


def test_every_error_has_the_shape_of_openai(client, document):
    for _, operation in operations(document):
        for status, response in operation["responses"].items():
            if int(status) >= 400:
                assert response["content"] == {JSON: {"schema": ERROR}}
    detail = document["components"]["schemas"]["ErrorDetail"]
    error = client.get("/v1/models/nothing").json()["error"]
    assert error.keys() == detail["properties"].keys() == set(detail["required"])


@pytest.mark.parametrize(
    ("path", "method", "statuses"),
    [
        ("/v1/chat/completions", "post", [200, 400, 401, 404, 413, 415, 429, 500, 503, 504]),
        ("/v1/models/{model_id}", "get", [200, 400, 401, 404, 429, 500, 503]),
        ("/v1/models", "get", [200, 401, 429, 500, 503]),
        (
            "/v1/cartridges",
            "post",
            [200, 201, 400, 401, 403, 404, 409, 413, 415, 429, 500, 503],
        ),
        ("/ready", "get", [200, 500, 503]),
        ("/health", "get", [200, 500, 503]),
        ("/metrics", "get", [200, 401, 500]),
    ],
)
def test_statuses(document, path, method, statuses):
    assert list(document["paths"][path][method]["responses"]) == list(map(str, statuses))


def test_streams_are_declared(document):
    for path in ("/v1/chat/completions", "/v1/completions"):
        content = document["paths"][path]["post"]["responses"]["200"]["content"]
        assert content.keys() == {JSON, "text/event-stream"}


def test_what_is_refused_is_no_part_of_a_body(document):
    properties = document["components"]["schemas"]["ChatBody"]["properties"]
    assert properties["grammar"]["enum"] == [None, [], {}, ""]
    assert properties["continue_final_message"]["enum"] == [None, False]


def secured(client):
    document = client.get("/openapi.json", headers={"X-Api-Key": "user"}).json()
    schemes = document["components"].get("securitySchemes", {})
    found = set()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if "security" in operation:
                assert [list(s) for s in operation["security"]] == [[name] for name in schemes]
                found.add((method, path))
    return found


def test_keys_are_declared_where_they_are_asked_for(client, serve, engine):
    assert secured(client) == set()
    some = secured(serve(engine, admin_key="admin"))
    assert ("delete", "/v1/cartridges/{cartridge_id}") in some
    assert ("get", "/v1/cartridges") not in some
    most = secured(serve(engine, api_key=["user"]))
    assert {("post", "/v1/completions"), ("get", "/metrics")} <= most
    assert not {path for _, path in most} & {"/health", "/ready"}


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/cartridges", "GET, HEAD, POST"),
        ("/v1/cartridges/french", "DELETE, GET, HEAD"),
        ("/v1/completions", "POST"),
    ],
)
def test_allow_names_every_method_of_a_path(client, path, methods):
    response = client.patch(path)
    assert (response.status_code, response.headers["allow"]) == (405, methods)
