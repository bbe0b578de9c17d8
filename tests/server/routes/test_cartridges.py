"""Showing, adding and removing cartridges while the server runs."""

import gc
import json
import os
import shutil
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from urllib.parse import quote, urlsplit

import httpx
import numpy as np
import openai
import pytest

from llamacart.cartridge import Cartridge, LayerMap, QuantizedMatrix
from llamacart.errors import InputError, NotFoundError
from llamacart.file.reader import read_cartridge
from llamacart.file.writer import write_cartridge
from llamacart_server.app import create_app
from llamacart_server.library import store as cartridge_store
from llamacart_server.library.library import CartridgeLibrary
from llamacart_server.library.store import CartridgeStore
from llamacart_server.middleware.auth import read_keys
from llamacart_server.settings import ServeSettings, load_settings

URL = "/v1/cartridges"
BINARY = {"Content-Type": "application/octet-stream"}
BODY = {"model": "demo:french", "prompt": "a"}


@pytest.fixture
def make(cartridge_named):
    """Function to a cartridge whose content depends on `bias`."""

    def cartridge(name="french", bias=0.5):
        plain = cartridge_named(name)
        layer = replace(plain.layers[0], bias=np.array([bias], np.float32))
        return replace(plain, layers=(layer,))

    return cartridge


@pytest.fixture
def raw(make, tmp_path):
    """Function to the bytes of such a cartridge's file."""

    def content(name="french", bias=0.5):
        path = tmp_path / f"raw-{threading.get_ident()}.tmp"
        write_cartridge(make(name, bias), path)
        return path.read_bytes()

    return content


@pytest.fixture
def folder(tmp_path, make):
    folder = tmp_path / "cartridges"
    folder.mkdir()
    write_cartridge(make("french", 1), folder / "french.gguf")
    write_cartridge(make("formal", 2), folder / "formal.gguf")
    write_cartridge(make("secret", 3), tmp_path / "secret.gguf")
    return folder


@pytest.fixture
def engine(shared_engine):
    class StrictEngine(type(shared_engine)):
        def submit(self, request):
            for placed in request.doses:
                if placed.dose.cartridge.content_hash not in self.loaded:
                    raise NotFoundError("not loaded", param="cartridges")
            return super().submit(request)

    return StrictEngine()


@pytest.fixture
def start(engine, folder, served, live, make):
    """Function to the admin's client of a server of its own."""
    with ExitStack() as stack:

        def start(folder=folder, model=served, **settings):
            library = CartridgeLibrary()
            if folder is not None:
                library = CartridgeLibrary.from_folder(folder, make().fingerprint)
            for cartridge in library:
                engine.load(cartridge)
            settings = {"admin_key": "boss", "cartridges": folder, **settings}
            url = stack.enter_context(
                live(create_app(engine, library, model, ServeSettings(**settings)))
            )
            headers = {"Authorization": "Bearer boss"}
            return stack.enter_context(httpx.Client(base_url=url, timeout=20, headers=headers))

        yield start


@pytest.fixture
def admin(start):
    return start()


def upload(client, content, **params):
    return client.post(URL, content=content, params=params, headers=BINARY)


def failure(response, status, param=None):
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["param"] == param, error
    return error


def ids(client):
    return [cartridge["id"] for cartridge in client.get(URL).json()["data"]]


def state(client, engine, folder):
    """Everything that a failed change must leave as it was."""
    hashes = [cartridge["hash"] for cartridge in client.get(URL).json()["data"]]
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    return hashes, sorted(engine.loaded), files


def consistent(client, engine, folder):
    """The engine holds what is offered, and the next start would offer the same."""
    shown = {c["id"]: c["hash"] for c in client.get(URL).json()["data"]}
    assert set(engine.loaded) == set(shown.values())
    files = [read_cartridge(path) for path in folder.glob("*.gguf")]
    assert {c.name: c.content_hash for c in files} == shown
    assert all(path.suffix == ".gguf" for path in folder.iterdir())
    models = [m["id"] for m in client.get("/v1/models").json()["data"]]
    assert models == ["fake-1b", *(f"fake-1b:{i}" for i in sorted(shown))]
    return shown


# --- reading -------------------------------------------------------------------------------------


def test_what_was_left_out_is_shown_until_it_is_on_offer(start, folder, make, tmp_path):
    (folder / "new.gguf").write_bytes(b"GGUF")
    write_cartridge(make("french", 3), folder / "zwei.gguf")
    admin = start()
    assert ids(admin) == ["formal", "french"]
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
    rich = Cartridge(metadata, french.fingerprint, (*french.layers, layer))
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
def test_unknown_ids(admin, name):
    for method in ("GET", "DELETE"):
        assert failure(admin.request(method, f"{URL}/{name}"), 404)["code"] == "not_found"


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
def test_administration_is_off_without_an_admin_key(start, engine, folder, change):
    client = start(admin_key=None)
    before = state(client, engine, folder)
    for key in (None, "boss", ""):
        error = failure(attempt(client, change, key), 403)
        assert error["code"] == "admin_off"
        assert "LLAMACART_ADMIN_KEY" in error["message"]
    assert state(client, engine, folder) == before


@pytest.mark.parametrize("change", CHANGES)
def test_only_the_admin_key_administers(start, engine, folder, change):
    client = start(api_key="user", admin_key="böss")
    client.headers["Authorization"] = "Bearer user"
    for key in (None, "b", "boss"):
        assert failure(attempt(client, change, key), 401)["code"] == "invalid_api_key"
    error = failure(attempt(client, change, "user"), 403)
    assert (error["code"], error["type"]) == ("admin_key_needed", "permission_error")
    assert attempt(client, change, "böss".encode()).status_code in (200, 400, 415)
    client.headers["Authorization"] = "Bearer user"
    assert ids(client)
    client.headers.pop("Authorization")
    headers = {"Authorization": "Bearer böss".encode()}  # httpx would have it in ASCII
    shown = client.get(URL, headers=headers).json()["data"]
    models = client.get("/v1/models", headers=headers).json()["data"]
    assert [c["id"] for c in shown] == [m["id"][8:] for m in models[1:]]


@pytest.mark.parametrize("change", CHANGES)
def test_an_admin_key_alone_leaves_the_rest_open(start, engine, folder, change):
    client = start()
    before = state(client, engine, folder)
    assert failure(attempt(client, change), 401)["code"] == "invalid_api_key"
    assert failure(attempt(client, change, "bos"), 403)["code"] == "admin_key_needed"
    assert state(client, engine, folder) == before
    assert client.post("/v1/completions", json=BODY).status_code == 200


def test_the_admin_key_must_be_another():
    with pytest.raises(InputError, match=r"admin_key.*must differ from every api_key") as caught:
        read_keys(load_settings(api_key=["other", "hunter2"], admin_key="hunter2"))
    assert "hunter2" not in caught.value.message
    assert "hunter2" not in repr(load_settings(admin_key="hunter2"))
    with pytest.raises(InputError, match="admin_key"):
        load_settings(admin_key="")


# --- uploads -------------------------------------------------------------------------------------


def test_an_upload_is_kept_in_the_folder(admin, engine, folder, raw, make):
    response = upload(admin, raw("dutch", 7))
    assert response.status_code == 201
    shown = response.json()
    assert (shown["id"], shown["file"]) == ("dutch", "dutch.gguf")
    assert shown["hash"] == make("dutch", 7).content_hash
    assert consistent(admin, engine, folder).keys() == {"dutch", "formal", "french"}
    assert (folder / "dutch.gguf").read_bytes() == raw("dutch", 7)
    answer = admin.post("/v1/completions", json={**BODY, "model": "demo:dutch"}).json()
    assert answer["cartridges"][0]["hash"] == shown["hash"]


def test_an_upload_under_another_id(admin, engine, folder, raw, make):
    shown = upload(admin, raw("dutch", 7), id="Flemish-2.0").json()
    assert (shown["id"], shown["file"]) == ("Flemish-2.0", "Flemish-2.0.gguf")
    assert shown["hash"] == make("dutch", 7).content_hash
    assert "Flemish-2.0" in consistent(admin, engine, folder)


def test_an_upload_replaces_its_id(admin, engine, folder, raw):
    before = admin.get(f"{URL}/french").json()["hash"]
    response = upload(admin, raw("dutch", 7), id="french")
    assert response.status_code == 200
    assert response.json()["hash"] != before
    assert consistent(admin, engine, folder)["french"] == response.json()["hash"]
    assert before not in engine.loaded


def test_an_upload_replaces_the_file_that_holds_its_id(start, engine, folder, raw):
    (folder / "french.gguf").rename(folder / "zwei.gguf")
    admin = start()
    assert upload(admin, raw(bias=7)).json()["file"] == "zwei.gguf"
    consistent(admin, engine, folder)
    assert admin.delete(f"{URL}/french").json()["file_deleted"] is False
    assert upload(admin, raw(bias=8)).json()["file"] == "zwei.gguf"
    consistent(admin, engine, folder)


def test_the_same_content_again_changes_nothing(admin, engine, folder, raw):
    before = state(admin, engine, folder)
    assert upload(admin, raw(bias=1)).status_code == 200
    assert state(admin, engine, folder) == before
    assert upload(admin, raw(bias=1), id="copy").status_code == 201
    assert admin.delete(f"{URL}/french").status_code == 200
    answer = admin.post("/v1/completions", json={**BODY, "model": "demo:copy"})
    assert answer.status_code == 200
    assert admin.delete(f"{URL}/copy").status_code == 200
    assert len(engine.loaded) == 1


def test_without_a_folder_uploads_live_in_memory(start, engine, raw, tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(cartridge_store.tempfile, "gettempdir", lambda: str(temporary))
    client = start(folder=None)
    shown = upload(client, raw("dutch", 7), id="flemish").json()
    assert (shown["id"], shown["file"]) == ("flemish", None)
    assert list(engine.loaded) == [shown["hash"]]
    assert list(temporary.iterdir()) == []
    error = failure(client.post(URL, json={"path": "french.gguf"}), 400, "path")
    assert "--cartridges" in error["message"]
    deleted = client.delete(f"{URL}/flemish", params={"delete_file": True}).json()
    assert deleted == {
        "id": "flemish",
        "object": "cartridge",
        "deleted": True,
        "file_deleted": False,
    }
    assert not engine.loaded


def test_an_upload_never_replaces_a_file_that_is_not_its_own(start, engine, folder, raw):
    (folder / "french.gguf").rename(folder / "dutch.gguf")
    admin = start()
    (folder / "late.gguf").symlink_to("nowhere")
    before = state(admin, engine, folder)
    for name in ("dutch", "late"):
        error = failure(upload(admin, raw(name, 7)), 409, "id")
        assert (error["code"], f"{name}.gguf" in error["message"]) == ("conflict", True)
    assert state(admin, engine, folder) == before


def test_an_upload_replaces_a_link_and_not_what_it_leads_to(start, engine, folder, raw, tmp_path):
    (folder / "french.gguf").unlink()
    elsewhere = tmp_path / "elsewhere.gguf"
    elsewhere.write_bytes(raw(bias=5))
    (folder / "french.gguf").symlink_to(elsewhere)
    admin = start()
    assert upload(admin, raw(bias=6)).status_code == 200
    assert elsewhere.read_bytes() == raw(bias=5)
    assert not (folder / "french.gguf").is_symlink()
    consistent(admin, engine, folder)


def broken(content):
    flipped = bytearray(content)
    flipped[-32] ^= 1  # in the bias: the content hash is wrong
    lengths = (0, 1, 4, 23, 24, len(content) // 2, len(content) - 1)
    return [
        *(content[:n] for n in lengths),
        content + b"\0",
        bytes(flipped),
        b"\0" * 4096,
        b"GGUF" + b"\xff" * 4096,
    ]


def test_broken_uploads_leave_nothing_behind(admin, engine, folder, raw):
    before = state(admin, engine, folder)
    for i, content in enumerate(broken(raw("dutch", 7))):
        error = failure(upload(admin, content), 400)
        assert error["code"] == "invalid_cartridge_file", i
        assert "the upload" in error["message"]
        assert str(folder) not in error["message"]
    assert state(admin, engine, folder) == before


def test_a_cartridge_for_another_model_leaves_nothing_behind(admin, engine, folder, make, tmp_path):
    before = state(admin, engine, folder)
    other = replace(make().fingerprint, weights_hash="ffffffffffffffff")
    write_cartridge(replace(make(), fingerprint=other), tmp_path / "other.gguf")
    for options in ({}, {"id": "dutch"}):
        error = failure(upload(admin, (tmp_path / "other.gguf").read_bytes(), **options), 400)
        assert error["code"] == "cartridge_model_mismatch"
    assert state(admin, engine, folder) == before


def test_an_upload_may_be_larger_than_other_bodies(start, engine, folder, raw):
    content = raw("dutch", 7)
    client = start(max_body_bytes=len(content) - 1, max_upload_bytes=len(content))
    before = state(client, engine, folder)
    for too_large in (content + b"\0", iter([content, b"\0"])):
        assert failure(upload(client, too_large), 413)["code"] == "body_too_large"
    long_json = json.dumps({"path": "french.gguf", "x": "x" * len(content)})[: len(content)]
    response = client.post(URL, content=long_json, headers={"Content-Type": "application/json"})
    assert failure(response, 413)["code"] == "body_too_large"
    response = client.post("/v1/completions", json={**BODY, "prompt": "x" * len(content)})
    assert failure(response, 413)["code"] == "body_too_large"
    assert state(client, engine, folder) == before
    assert upload(client, content).status_code == 201


def test_a_client_that_leaves_in_the_middle_of_its_upload(admin, engine, folder, raw):
    before = state(admin, engine, folder)
    content = raw("dutch", 7)
    head = (
        f"POST {URL} HTTP/1.1\r\nHost: x\r\nX-Api-Key: boss\r\nContent-Length: {len(content)}\r\n"
    )
    address = urlsplit(str(admin.base_url))
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(head.encode() + b"Content-Type: application/octet-stream\r\n\r\n")
        connection.sendall(content[:-1])
        deadline = time.monotonic() + 5
        while len(list(folder.iterdir())) == 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(list(folder.glob("*.tmp"))) == 1
    while list(folder.glob("*.tmp")) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert state(admin, engine, folder) == before


@pytest.mark.parametrize("kind", [None, "text/plain", "multipart/form-data; boundary=x"])
def test_other_kinds_of_body(admin, raw, kind):
    headers = {} if kind is None else {"Content-Type": kind}
    response = admin.post(URL, content=raw("dutch", 7), headers=headers)
    error = failure(response, 415)
    assert error["code"] == "unsupported_media_type"
    assert "application/octet-stream" in error["message"]


def test_a_folder_that_cannot_be_written(admin, engine, folder, raw):
    hashes, loaded, _ = state(admin, engine, folder)
    # A folder in the file's place: the rename fails after the engine has the cartridge.
    (folder / "french.gguf").unlink()
    (folder / "french.gguf").mkdir()
    assert failure(upload(admin, raw(bias=7)), 500)["code"] == "storage_error"
    response = admin.delete(f"{URL}/french", params={"delete_file": True})
    assert failure(response, 500)["code"] == "storage_error"
    assert list(folder.glob("*.tmp")) == []
    shutil.rmtree(folder)
    error = failure(upload(admin, raw(bias=7)), 500)
    assert error["code"] == "storage_error"
    assert str(folder) not in error["message"]
    folder.mkdir()
    assert state(admin, engine, folder)[:2] == (hashes, loaded)


# --- paths ---------------------------------------------------------------------------------------

HOSTILE_IDS = [
    "", "../x", "a/b", "/x", ".hidden", "..", "a b", "é", "x" * 65, "x" * 10_000, "a\0b", "a\n",
    "a@1", "a+b", "a:b", "%2e%2e",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_IDS)
def test_hostile_ids(admin, engine, folder, raw, name):
    before = state(admin, engine, folder)
    failure(admin.post(f"{URL}?id={quote(name)}", content=raw("x", 7), headers=BINARY), 400, "id")
    failure(admin.post(URL, json={"path": "french.gguf", "id": name}), 400, "id")
    body = {"lora_name": name, "lora_path": "french.gguf"}
    failure(admin.post("/v1/load_lora_adapter", json=body), 400, "lora_name")
    failure(admin.post("/v1/unload_lora_adapter", json={"lora_name": name}), 404)
    assert state(admin, engine, folder) == before


@pytest.fixture
def traps(folder, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    shutil.copy(tmp_path / "secret.gguf", outside / "secret.gguf")
    shutil.copytree(folder, tmp_path / "cartridges-2")
    (folder / "out.gguf").symlink_to(tmp_path / "secret.gguf")
    (folder / "relative.gguf").symlink_to("../secret.gguf")
    (folder / "twice.gguf").symlink_to("out.gguf")
    (folder / "outside").symlink_to(outside)
    (folder / "up").symlink_to("..")
    (folder / "loop.gguf").symlink_to("loop.gguf")
    (folder / "dangling.gguf").symlink_to("missing.gguf")
    (folder / "folder.gguf").mkdir()
    (folder / "broken.gguf").write_bytes(b"GGUF")
    (folder / "sub").mkdir()
    shutil.copy(folder / "french.gguf", folder / "sub" / "deep.gguf")
    (folder / "inside.gguf").symlink_to("sub/deep.gguf")
    os.mkfifo(folder / "pipe.gguf")
    return folder


OUTSIDE = [
    "../secret.gguf", "../cartridges/french.gguf", "sub/../../secret.gguf", "sub/../french.gguf",
    "../cartridges-2/french.gguf", "out.gguf", "relative.gguf", "twice.gguf",
    "outside/secret.gguf", "up/secret.gguf", "/etc/passwd", "/etc/passwd.gguf",
    "//etc/x.gguf", "~/x.gguf/../../../x.gguf", ".", "..", "/", "french", "french.gguf\0",
    "french.gguf\0.gguf", "\ud800.gguf", ".gguf", "french.ggu", "outside/missing.gguf",
]  # fmt: skip


@pytest.mark.parametrize("path", [*OUTSIDE, "{tmp}/secret.gguf", "{tmp}/cartridges/out.gguf"])
def test_paths_that_lead_elsewhere(admin, engine, traps, tmp_path, path):
    before = state(admin, engine, tmp_path)
    path = path.replace("{tmp}", str(tmp_path))
    # As bytes: httpx refuses to send a lone surrogate.
    for url, name, more in (
        (URL, "path", {}),
        ("/v1/load_lora_adapter", "lora_path", {"lora_name": "x"}),
    ):
        content = json.dumps({name: path, **more})
        response = admin.post(url, content=content, headers={"Content-Type": "application/json"})
        error = failure(response, 400, name)
        if path.isprintable():  # pydantic refuses a lone surrogate before
            assert "is not the path of a .gguf file in the cartridges folder" in error["message"]
        if str(tmp_path) not in path:
            assert str(tmp_path) not in error["message"]
    assert state(admin, engine, tmp_path) == before


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("missing.gguf", 404),
        ("missing.GGUF", 404),
        ("dangling.gguf", 404),
        ("sub/missing.gguf", 404),
        ("french.gguf/x.gguf", 400),
        ("folder.gguf", 400),
        ("pipe.gguf", 400),
        ("broken.gguf", 400),
        ("x" * 300 + ".gguf", 400),
        ("loop.gguf", 400),
        ("x/" * 2045 + "x.gguf", 400),
        ("x" * 5000 + ".gguf", 400),
        ("", 400),
    ],
)
def test_files_that_are_none(admin, engine, traps, tmp_path, path, status):
    before = state(admin, engine, tmp_path)
    error = failure(admin.post(URL, json={"path": path}), status, "path")
    assert str(tmp_path) not in error["message"]
    assert state(admin, engine, tmp_path) == before


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"null", b"\xff", b"[" * 100_000, b"3"])
def test_bodies_that_are_no_object(admin, body):
    failure(admin.post(URL, content=body, headers={"Content-Type": "application/json"}), 400)


@pytest.mark.parametrize(
    ("body", "param"), [({}, "path"), ({"path": 3}, "path"), ({"path": "a", "id": 3}, "id")]
)
def test_bad_fields(admin, body, param):
    assert param in failure(admin.post(URL, json=body), 400, param)["message"]


def test_an_id_in_the_wrong_place_is_not_ignored(admin):
    failure(admin.post(URL, json={"path": "french.gguf"}, params={"id": "x"}), 400, "id")


@pytest.mark.parametrize("path", ["sub/deep.gguf", "inside.gguf", "{}/sub/deep.gguf"])
def test_paths_inside(admin, engine, traps, path, make):
    path = path.format(traps)
    response = admin.post(URL, json={"path": path, "id": "deep"})
    assert response.status_code == 201, response.text
    shown = response.json()
    assert shown["id"] == "deep"
    assert shown["file"] in ("sub/deep.gguf", "inside.gguf")
    assert shown["hash"] == make("french", 1).content_hash
    assert ids(admin) == ["deep", "formal", "french"]


def test_a_changed_file_is_read_again(admin, engine, folder, make):
    before = admin.get(f"{URL}/french").json()["hash"]
    write_cartridge(make(bias=9), folder / "french.gguf")
    assert admin.get(f"{URL}/french").json()["hash"] == before
    response = admin.post(URL, json={"path": "french.gguf"})
    assert (response.status_code, response.json()["id"]) == (200, "french")
    assert response.json()["hash"] != before
    assert consistent(admin, engine, folder)["french"] == response.json()["hash"]


# --- removal -------------------------------------------------------------------------------------


def test_a_removed_cartridge_can_be_loaded_again(admin, engine, folder):
    response = admin.delete(f"{URL}/french")
    assert response.json() == {
        "id": "french",
        "object": "cartridge",
        "deleted": True,
        "file_deleted": False,
    }
    assert (folder / "french.gguf").exists()
    assert ids(admin) == ["formal"]
    assert len(engine.loaded) == 1
    error = failure(admin.post("/v1/completions", json=BODY), 404, "model")
    assert "loaded cartridges: 'formal'" in error["message"]
    failure(admin.delete(f"{URL}/french"), 404)
    assert admin.post(URL, json={"path": "french.gguf"}).status_code == 201
    consistent(admin, engine, folder)


def test_a_file_is_deleted_only_when_asked(admin, engine, folder, raw):
    failure(admin.delete(f"{URL}/french?delete_file=perhaps"), 400, "delete_file")
    assert admin.delete(f"{URL}/french", params={"delete_file": True}).json()["file_deleted"]
    assert consistent(admin, engine, folder).keys() == {"formal"}
    assert upload(admin, raw(bias=7)).status_code == 201
    consistent(admin, engine, folder)


def test_a_file_with_two_ids_is_not_deleted(admin, engine, folder):
    assert admin.post(URL, json={"path": "french.gguf", "id": "second"}).status_code == 201
    before = state(admin, engine, folder)
    error = failure(admin.delete(f"{URL}/second", params={"delete_file": True}), 409, "delete_file")
    assert "'french'" in error["message"]
    assert state(admin, engine, folder) == before
    assert admin.delete(f"{URL}/second").status_code == 200
    consistent(admin, engine, folder)


# --- vLLM's words --------------------------------------------------------------------------------


def test_lora_aliases(admin, engine, folder, make):
    body = {"lora_name": "sql", "lora_path": str(folder / "french.gguf"), "lora_int_id": 1}
    response = admin.post("/v1/load_lora_adapter", json=body)
    assert response.status_code == 200
    assert response.text == "Success: LoRA adapter 'sql' added successfully."
    assert ids(admin) == ["formal", "french", "sql"]
    assert "load_inplace" in failure(admin.post("/v1/load_lora_adapter", json=body), 400)["message"]
    write_cartridge(make(bias=9), folder / "french.gguf")
    body["load_inplace"] = True
    assert admin.post("/v1/load_lora_adapter", json=body).status_code == 200
    assert admin.get(f"{URL}/sql").json()["hash"] == make(bias=9).content_hash
    response = admin.post("/v1/unload_lora_adapter", json={"lora_name": "sql", "lora_int_id": 1})
    assert response.status_code == 200
    assert response.text == "Success: LoRA adapter 'sql' removed successfully."
    failure(admin.post("/v1/unload_lora_adapter", json={"lora_name": "sql"}), 404)
    failure(admin.post("/v1/load_lora_adapter", json={"lora_name": "x"}), 400, "lora_path")
    body = {"lora_name": "x", "lora_path": "missing.gguf"}
    failure(admin.post("/v1/load_lora_adapter", json=body), 404, "lora_path")


# --- while requests run --------------------------------------------------------------------------


def test_open_requests_keep_what_they_started_with(admin, engine, folder, raw):
    engine.hangs = True
    engine.say("he", end=False)
    old = admin.get(f"{URL}/french").json()["hash"]
    body = {**BODY, "stream": True}
    with admin.stream("POST", "/v1/completions", json=body) as stream:
        lines = stream.iter_lines()
        first = json.loads(next(lines).removeprefix("data: "))
        new = upload(admin, raw(bias=7)).json()["hash"]
        assert old not in engine.loaded
        engine.hangs = False
        engine.say("ho")
        answer = admin.post("/v1/completions", json=BODY).json()
        assert first["cartridges"][0]["hash"] == old
        assert answer["cartridges"][0]["hash"] == new != old
        hashes = [r.doses[0].dose.cartridge.content_hash for r in engine.requests]
        assert hashes == [old, new]


class SlowTokenizer:
    """Holds every request back between finding its cartridges and reaching the engine."""

    def __init__(self, model):
        self._model = model
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def __getattr__(self, name):
        return getattr(self._model, name)

    def check_tokens(self, tokens):
        self.reached.set()
        assert self.go_on.wait(10)


@pytest.mark.parametrize("change", ["delete", "replace"])
def test_a_request_on_its_way_to_the_engine_is_served(start, engine, served, raw, change):
    slow = SlowTokenizer(served.tokenizer)
    admin = start(model=replace(served, tokenizer=slow))
    old = admin.get(f"{URL}/french").json()["hash"]
    with ThreadPoolExecutor(2) as pool:
        try:
            request = pool.submit(admin.post, "/v1/completions", json=BODY)
            assert slow.reached.wait(5)
            if change == "delete":
                changing = pool.submit(admin.delete, f"{URL}/french")
            else:
                changing = pool.submit(upload, admin, raw(bias=7))
            deadline = time.monotonic() + 5
            while admin.get(f"{URL}/french").json().get("hash") == old:
                assert time.monotonic() < deadline
            time.sleep(0.1)
            assert not changing.done()
            assert old in engine.loaded
        finally:
            slow.go_on.set()
        answer = request.result(10)
        assert answer.status_code == 200, answer.text
        assert answer.json()["cartridges"][0]["hash"] == old
        assert changing.result(10).status_code == 200
    assert old not in engine.loaded


def test_leases_that_are_dropped_hold_nothing_up(make, engine):
    library = CartridgeLibrary([make()])
    engine.load(make())
    kept, dropped = library.lease(), library.lease()
    assert library.wait_for_leases(0)
    library.replace(library.snapshot.without("french"))
    assert not library.wait_for_leases(0.01)
    library.release(kept)
    library.release(kept)
    assert not library.wait_for_leases(0.01)
    del dropped
    gc.collect()
    assert library.wait_for_leases(0)
    assert library.lease().snapshot.ids == ()


def test_a_lease_that_is_never_given_back_is_not_waited_for_long(make, engine, monkeypatch, caplog):
    monkeypatch.setattr(cartridge_store, "LEASE_SECONDS", 0.01)
    library = CartridgeLibrary([make()])
    engine.load(make())
    lease = library.lease()
    CartridgeStore(engine, library).remove("french")
    assert not engine.loaded
    assert "still being prepared" in caplog.text
    library.release(lease)


def test_changes_of_one_id_at_the_same_time(admin, engine, folder, raw):
    contents = [raw(bias=i) for i in range(10, 26)]

    def change(i):
        if i % 8 == 7:
            return admin.delete(f"{URL}/french").status_code
        return upload(admin, contents[i]).status_code

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(change, range(16)))
    assert set(statuses) <= {200, 201, 404}
    assert statuses.count(201) <= 2
    assert upload(admin, contents[0]).status_code in (200, 201)
    consistent(admin, engine, folder)


def test_requests_while_a_cartridge_is_being_replaced(admin, engine, folder, raw, make):
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
            assert upload(admin, content).status_code == 200
        done.set()
        answers = [answer for one in asking for answer in one.result(10)]
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["cartridges"][0]["hash"] for answer in answers} <= known
    consistent(admin, engine, folder)


# --- what it looks like from outside -------------------------------------------------------------


def test_openapi_names_both_kinds_of_body(admin):
    operation = admin.get("/openapi.json").json()["paths"][URL]["post"]
    content = operation["requestBody"]["content"]
    assert content["application/octet-stream"]["schema"]["format"] == "binary"
    assert content["application/json"]["schema"]["required"] == ["path"]
    assert {"200", "201"} <= operation["responses"].keys()
    assert [p["name"] for p in operation["parameters"]] == ["id"]


def test_an_openai_client_sees_the_change(admin, raw):
    with openai.OpenAI(base_url=f"{admin.base_url}/v1", api_key="none", max_retries=0) as sdk:
        assert "fake-1b:dutch" not in [m.id for m in sdk.models.list()]
        upload(admin, raw("dutch", 7))
        assert "fake-1b:dutch" in [m.id for m in sdk.models.list()]
        with pytest.raises(openai.PermissionDeniedError, match="may not administer"):
            sdk.post("/load_lora_adapter", body={}, cast_to=str)
