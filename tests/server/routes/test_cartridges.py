"""Showing, adding and removing cartridges while the server runs."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import openai
import pytest

from llamacart.cartridge import Cartridge, LayerMap
from llamacart.errors import InputError
from llamacart.file.writer import write_cartridge
from llamacart.matrix import QuantizedMatrix
from llamacart_server import service
from llamacart_server.library.library import CartridgeLibrary, Entry
from llamacart_server.middleware.auth import read_keys
from llamacart_server.settings import load_settings

URL = "/v1/cartridges"
BINARY = {"Content-Type": "application/octet-stream"}
BODY = {"model": "demo:french", "prompt": "a"}


@pytest.fixture
def engine(strict):
    return strict


# --- reading -------------------------------------------------------------------------------------


def test_what_was_left_out_is_shown_until_it_is_on_offer(start, folder, make, tmp_path, cartridges):
    (folder / "new.gguf").write_bytes(b"GGUF")
    write_cartridge(make("french", 3), folder / "zwei.gguf")
    admin = start()
    assert cartridges.ids(admin) == ["formal", "french"]
    first, second = admin.get(URL).json()["left_out"]
    assert (first["file"], second["file"]) == ("new.gguf", "zwei.gguf")
    assert "ends at byte" in first["reason"]
    assert "id 'french' is also that of french.gguf" in second["reason"]
    assert str(tmp_path) not in first["reason"] + second["reason"]
    write_cartridge(make("new", 4), folder / "new.gguf")
    assert admin.post(URL, json={"path": "new.gguf"}).status_code == 201
    assert [left["file"] for left in admin.get(URL).json()["left_out"]] == ["zwei.gguf"]
    assert admin.post(URL, json={"path": "zwei.gguf", "id": "two"}).status_code == 201
    assert admin.delete(f"{URL}/two").status_code == 200
    assert admin.get(URL).json()["left_out"] == []


def test_what_is_shown(admin, folder, make):
    french = make("french", 1)
    delta = QuantizedMatrix.quantize(np.ones((2, 32), np.float32))
    layer = LayerMap(1, np.array([1, 4], np.int32), delta, np.zeros(2, np.float32))
    metadata = replace(
        french.metadata,
        name="rich",
        default_alpha=-0.5,
        solver="ridge-identity",
        settings={"k": 2},
        diagnostics={"r2": 0.75},
        dataset_hash="00112233",
        tool_version="9.9",
    )
    rich = Cartridge(metadata, french.fingerprint, (*french.layers, layer), when=("Paris",))
    write_cartridge(rich, folder / "other name.gguf")
    assert admin.post(URL, json={"path": "other name.gguf"}).status_code == 201
    shown = admin.get(f"{URL}/rich").json()
    assert shown == {
        "id": "rich",
        "object": "cartridge",
        "model": "fake-1b:rich",
        "description": "About french.",
        "default_alpha": -0.5,
        "alpha_min": -10.0,
        "alpha_max": 10.0,
        "hash": rich.content_hash,
        "size_bytes": 4 + 4 + 2 * 4 + 2 * 4 + 2 * 34,
        "active_neurons": 3,
        "layers": [0, 1],
        "when": ["Paris"],
        "made_for": {
            "name": "Fake 1B",
            "architecture": "gemma3",
            "n_layer": 2,
            "n_ff": 32,
            "n_embd": 8,
            "weights_hash": "0123456789abcdef",
        },
        "file": "other name.gguf",
        "created": "2026-01-02T03:04:05Z",
        "solver": "ridge-identity",
        "settings": {"k": 2},
        "dataset_hash": "00112233",
        "diagnostics": {"r2": 0.75},
        "tool_version": "9.9",
    }
    listed = admin.get(URL).json()
    assert listed["object"] == "list"
    assert [c["id"] for c in listed["data"]] == ["formal", "french", "rich"]
    assert listed["data"][2] == shown


@pytest.mark.parametrize("name", ["dutch", "..%2f..%2fetc%2fpasswd", "%00", "x" * 9000, "%ff"])
def test_unknown_ids(admin, name, cartridges):
    for method in ("GET", "DELETE"):
        assert (
            cartridges.failure(admin.request(method, f"{URL}/{name}"), 404)["code"] == "not_found"
        )


# --- keys ----------------------------------------------------------------------------------------

CHANGES = [
    ("POST", URL, {"json": {"path": "french.gguf"}}),
    ("POST", URL, {"content": b"x", "headers": BINARY}),
    ("POST", URL, {"content": b"{"}),
    ("DELETE", f"{URL}/french", {}),
    ("DELETE", f"{URL}/dutch?delete_file=perhaps", {}),
    ("POST", "/v1/load_lora_adapter", {"json": {"lora_name": "x", "lora_path": "french.gguf"}}),
    ("POST", "/v1/unload_lora_adapter", {"json": {"lora_name": "french"}}),
    ("POST", "/v1/unload_lora_adapter", {"json": {}}),
]


def attempt(client, change, key=None):
    method, path, options = change
    options = {**options, "headers": dict(options.get("headers", {}))}
    client.headers.pop("Authorization", None)
    if key is not None:
        options["headers"]["X-Api-Key"] = key
    return client.request(method, path, **options)


@pytest.mark.parametrize("change", CHANGES)
def test_administration_is_off_without_an_admin_key(start, engine, folder, change, cartridges):
    client = start(admin_key=None)
    before = cartridges.state(client, engine, folder)
    for key in (None, "boss", ""):
        error = cartridges.failure(attempt(client, change, key), 403)
        assert error["code"] == "admin_off"
        assert "LLAMACART_ADMIN_KEY" in error["message"]
    assert cartridges.state(client, engine, folder) == before


@pytest.mark.parametrize("change", CHANGES)
def test_only_the_admin_key_administers(start, engine, folder, change, cartridges):
    client = start(api_key="user", admin_key="böss")
    client.headers["Authorization"] = "Bearer user"
    for key in (None, "b", "boss"):
        assert cartridges.failure(attempt(client, change, key), 401)["code"] == "invalid_api_key"
    error = cartridges.failure(attempt(client, change, "user"), 403)
    assert (error["code"], error["type"]) == ("admin_key_needed", "permission_error")
    assert attempt(client, change, "böss".encode()).status_code in (200, 400, 415)
    client.headers["Authorization"] = "Bearer user"
    assert cartridges.ids(client)
    client.headers.pop("Authorization")
    headers = {"Authorization": "Bearer böss".encode()}  # httpx would have it in ASCII
    shown = client.get(URL, headers=headers).json()["data"]
    models = client.get("/v1/models", headers=headers).json()["data"]
    assert [c["id"] for c in shown] == [m["id"][8:] for m in models[1:]]


@pytest.mark.parametrize("change", CHANGES)
def test_an_admin_key_alone_leaves_the_rest_open(start, engine, folder, change, cartridges):
    client = start()
    before = cartridges.state(client, engine, folder)
    assert cartridges.failure(attempt(client, change), 401)["code"] == "invalid_api_key"
    assert cartridges.failure(attempt(client, change, "bos"), 403)["code"] == "admin_key_needed"
    assert cartridges.state(client, engine, folder) == before
    assert client.post("/v1/completions", json=BODY).status_code == 200


def test_the_admin_key_must_be_another():
    with pytest.raises(InputError, match=r"admin_key.*must differ from every api_key") as caught:
        read_keys(load_settings(api_key=["other", "hunter2"], admin_key="hunter2"))
    assert "hunter2" not in caught.value.message
    assert "hunter2" not in repr(load_settings(admin_key="hunter2"))
    with pytest.raises(InputError, match="admin_key"):
        load_settings(admin_key="")


# --- removal -------------------------------------------------------------------------------------


def test_a_removed_cartridge_can_be_loaded_again(admin, engine, folder, cartridges):
    response = admin.delete(f"{URL}/french")
    assert response.json() == {
        "id": "french",
        "object": "cartridge",
        "deleted": True,
        "file_deleted": False,
    }
    assert (folder / "french.gguf").exists()
    assert cartridges.ids(admin) == ["formal"]
    assert len(engine.loaded) == 1
    error = cartridges.failure(admin.post("/v1/completions", json=BODY), 404, "model")
    assert "loaded cartridges: 'formal'" in error["message"]
    cartridges.failure(admin.delete(f"{URL}/french"), 404)
    assert admin.post(URL, json={"path": "french.gguf"}).status_code == 201
    cartridges.consistent(admin, engine, folder)


def test_a_file_is_deleted_only_when_asked(admin, engine, folder, raw, cartridges):
    cartridges.failure(admin.delete(f"{URL}/french?delete_file=perhaps"), 400, "delete_file")
    assert admin.delete(f"{URL}/french", params={"delete_file": True}).json()["file_deleted"]
    assert cartridges.consistent(admin, engine, folder).keys() == {"formal"}
    assert cartridges.upload(admin, raw(bias=7)).status_code == 201
    cartridges.consistent(admin, engine, folder)


def test_a_file_with_two_ids_is_not_deleted(admin, engine, folder, cartridges):
    assert admin.post(URL, json={"path": "french.gguf", "id": "second"}).status_code == 201
    before = cartridges.state(admin, engine, folder)
    error = cartridges.failure(
        admin.delete(f"{URL}/second", params={"delete_file": True}), 409, "delete_file"
    )
    assert "'french'" in error["message"]
    assert cartridges.state(admin, engine, folder) == before
    assert admin.delete(f"{URL}/second").status_code == 200
    cartridges.consistent(admin, engine, folder)


# --- vLLM's words --------------------------------------------------------------------------------


def test_lora_aliases(admin, engine, folder, make, cartridges):
    body = {"lora_name": "sql", "lora_path": str(folder / "french.gguf"), "lora_int_id": 1}
    response = admin.post("/v1/load_lora_adapter", json=body)
    assert response.status_code == 200
    assert response.text == "Success: LoRA adapter 'sql' added successfully."
    assert cartridges.ids(admin) == ["formal", "french", "sql"]
    assert (
        "load_inplace"
        in cartridges.failure(admin.post("/v1/load_lora_adapter", json=body), 400)["message"]
    )
    write_cartridge(make(bias=9), folder / "french.gguf")
    body["load_inplace"] = True
    assert admin.post("/v1/load_lora_adapter", json=body).status_code == 200
    assert admin.get(f"{URL}/sql").json()["hash"] == make(bias=9).content_hash
    response = admin.post("/v1/unload_lora_adapter", json={"lora_name": "sql", "lora_int_id": 1})
    assert response.status_code == 200
    assert response.text == "Success: LoRA adapter 'sql' removed successfully."
    cartridges.failure(admin.post("/v1/unload_lora_adapter", json={"lora_name": "sql"}), 404)
    cartridges.failure(
        admin.post("/v1/load_lora_adapter", json={"lora_name": "x"}), 400, "lora_path"
    )
    body = {"lora_name": "x", "lora_path": "missing.gguf"}
    cartridges.failure(admin.post("/v1/load_lora_adapter", json=body), 404, "lora_path")


# --- while requests run --------------------------------------------------------------------------


def test_open_requests_keep_what_they_started_with(admin, engine, folder, raw, cartridges):
    engine.hangs = True
    engine.say("he", end=False)
    old = admin.get(f"{URL}/french").json()["hash"]
    body = {**BODY, "stream": True}
    with admin.stream("POST", "/v1/completions", json=body) as stream:
        lines = stream.iter_lines()
        first = json.loads(next(lines).removeprefix("data: "))
        new = cartridges.upload(admin, raw(bias=7)).json()["hash"]
        assert old not in engine.loaded
        engine.hangs = False
        engine.say("ho")
        answer = admin.post("/v1/completions", json=BODY).json()
        assert first["cartridges"][0]["hash"] == old
        assert answer["cartridges"][0]["hash"] == new != old
        hashes = [r.doses[0].dose.cartridge.content_hash for r in engine.requests]
        assert hashes == [old, new]


@pytest.mark.parametrize("change", ["delete", "replace"])
def test_a_request_on_its_way_to_the_engine_looks_again(
    admin, engine, raw, change, cartridges, monkeypatch
):
    """It has found its cartridge, and not reached the engine: nobody waits for it."""
    reached, go_on = threading.Event(), threading.Event()
    select = service.select

    def slow(*args):
        found = select(*args)
        if not reached.is_set():
            reached.set()
            assert go_on.wait(60)
        return found

    monkeypatch.setattr(service, "select", slow)
    old = admin.get(f"{URL}/french").json()["hash"]
    with ThreadPoolExecutor(1) as pool:
        try:
            request = pool.submit(admin.post, "/v1/completions", json=BODY)
            assert reached.wait(60)
            if change == "delete":
                assert admin.delete(f"{URL}/french").status_code == 200
            else:
                new = cartridges.upload(admin, raw(bias=7)).json()["hash"]
            assert old not in engine.loaded
        finally:
            go_on.set()
        answer = request.result(60)
    if change == "delete":
        assert answer.status_code == 404
        assert "no cartridge 'french'" in answer.json()["error"]["message"]
    else:
        assert answer.status_code == 200, answer.text
        assert answer.json()["cartridges"][0]["hash"] == new != old


def test_a_change_between_the_last_look_and_the_engine(start, engine, make, monkeypatch):
    """The snapshot was the newest, and the cartridge has left the engine all the same."""
    libraries = []
    read = CartridgeLibrary.from_folder
    monkeypatch.setattr(
        CartridgeLibrary,
        "from_folder",
        lambda *args, **options: libraries.append(read(*args, **options)) or libraries[0],
    )
    admin = start()
    old, new = make("french", 1), make("french", 9)
    submit, changes = engine.submit, []

    def late(request):
        if not changes:
            changes.append("replaced")
            engine.load(new)
            libraries[0].replace(libraries[0].snapshot.with_entry(Entry(new)))
            engine.unload(old)
        return submit(request)

    monkeypatch.setattr(engine, "submit", late)
    answer = admin.post("/v1/completions", json=BODY)
    assert answer.status_code == 200, answer.text
    assert answer.json()["cartridges"][0]["hash"] == new.content_hash


def test_what_the_engine_does_not_have_is_not_looked_for_for_ever(admin, engine, make):
    engine.unload(make("french", 1))
    assert admin.post("/v1/completions", json=BODY).status_code == 404


def test_changes_of_one_id_at_the_same_time(admin, engine, folder, raw, cartridges):
    contents = [raw(bias=i) for i in range(10, 26)]

    def change(i):
        if i % 8 == 7:
            return admin.delete(f"{URL}/french").status_code
        return cartridges.upload(admin, contents[i]).status_code

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(change, range(16)))
    assert set(statuses) <= {200, 201, 404}
    assert statuses.count(201) <= 2
    assert cartridges.upload(admin, contents[0]).status_code in (200, 201)
    cartridges.consistent(admin, engine, folder)


def test_requests_while_a_cartridge_is_being_replaced(admin, engine, folder, raw, make, cartridges):
    contents = [raw(bias=i) for i in range(10, 30)]
    known = {make(bias=i).content_hash for i in range(10, 30)}
    known.add(admin.get(f"{URL}/french").json()["hash"])
    done = threading.Event()

    def ask():
        answers = []
        while not done.is_set():
            answers.append(admin.post("/v1/completions", json=BODY))
        return answers

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask) for _ in range(4)]
        for content in contents:
            assert cartridges.upload(admin, content).status_code == 200
        done.set()
        answers = [answer for one in asking for answer in one.result(60)]
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["cartridges"][0]["hash"] for answer in answers} <= known
    cartridges.consistent(admin, engine, folder)


# --- what it looks like from outside -------------------------------------------------------------


def test_openapi_names_both_kinds_of_body(admin):
    operation = admin.get("/openapi.json").json()["paths"][URL]["post"]
    content = operation["requestBody"]["content"]
    assert content["application/octet-stream"]["schema"]["format"] == "binary"
    assert content["application/json"]["schema"]["required"] == ["path"]
    assert {"200", "201"} <= operation["responses"].keys()
    assert [p["name"] for p in operation["parameters"]] == ["id"]


def test_an_openai_client_sees_the_change(admin, raw, cartridges):
    with openai.OpenAI(base_url=f"{admin.base_url}/v1", api_key="none", max_retries=0) as sdk:
        assert "fake-1b:dutch" not in [m.id for m in sdk.models.list()]
        cartridges.upload(admin, raw("dutch", 7))
        assert "fake-1b:dutch" in [m.id for m in sdk.models.list()]
        with pytest.raises(openai.PermissionDeniedError, match="may not administer"):
            sdk.post("/load_lora_adapter", body={}, cast_to=str)
