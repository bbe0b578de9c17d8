"""Cartridges that come as bytes: kept, replaced, or refused with nothing left behind."""

import json
import shutil
import socket
from dataclasses import replace
from urllib.parse import urlsplit

import pytest

from llamacart.file.writer import write_cartridge
from llamacart_server.library import store as cartridge_store

URL = "/v1/cartridges"
BINARY = {"Content-Type": "application/octet-stream"}
BODY = {"model": "demo:french", "prompt": "a"}


def test_an_upload_is_kept_in_the_folder(admin, strict, folder, raw, make, cartridges):
    response = cartridges.upload(admin, raw("dutch", 7))
    assert response.status_code == 201
    shown = response.json()
    assert (shown["id"], shown["file"]) == ("dutch", "dutch.gguf")
    assert shown["hash"] == make("dutch", 7).content_hash
    assert cartridges.consistent(admin, strict, folder).keys() == {"dutch", "formal", "french"}
    assert (folder / "dutch.gguf").read_bytes() == raw("dutch", 7)
    answer = admin.post("/v1/completions", json={**BODY, "model": "demo:dutch"}).json()
    assert answer["cartridges"][0]["hash"] == shown["hash"]


def test_an_upload_under_another_id(admin, strict, folder, raw, make, cartridges):
    shown = cartridges.upload(admin, raw("dutch", 7), id="Flemish-2.0").json()
    assert (shown["id"], shown["file"]) == ("Flemish-2.0", "Flemish-2.0.gguf")
    assert shown["hash"] == make("dutch", 7).content_hash
    assert "Flemish-2.0" in cartridges.consistent(admin, strict, folder)


def test_an_upload_replaces_its_id(admin, strict, folder, raw, cartridges):
    before = admin.get(f"{URL}/french").json()["hash"]
    response = cartridges.upload(admin, raw("dutch", 7), id="french")
    assert response.status_code == 200
    assert response.json()["hash"] != before
    assert cartridges.consistent(admin, strict, folder)["french"] == response.json()["hash"]
    assert before not in strict.loaded


def test_an_upload_replaces_the_file_that_holds_its_id(start, strict, folder, raw, cartridges):
    (folder / "french.gguf").rename(folder / "zwei.gguf")
    admin = start()
    assert cartridges.upload(admin, raw(bias=7)).json()["file"] == "zwei.gguf"
    cartridges.consistent(admin, strict, folder)
    assert admin.delete(f"{URL}/french").json()["file_deleted"] is False
    assert cartridges.upload(admin, raw(bias=8)).json()["file"] == "zwei.gguf"
    cartridges.consistent(admin, strict, folder)


def test_the_same_content_again_changes_nothing(admin, strict, folder, raw, cartridges):
    before = cartridges.state(admin, strict, folder)
    assert cartridges.upload(admin, raw(bias=1)).status_code == 200
    assert cartridges.state(admin, strict, folder) == before
    assert cartridges.upload(admin, raw(bias=1), id="copy").status_code == 201
    assert admin.delete(f"{URL}/french").status_code == 200
    answer = admin.post("/v1/completions", json={**BODY, "model": "demo:copy"})
    assert answer.status_code == 200
    assert admin.delete(f"{URL}/copy").status_code == 200
    assert len(strict.loaded) == 1


def test_without_a_folder_uploads_live_in_memory(
    start, strict, raw, tmp_path, monkeypatch, cartridges
):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(cartridge_store.tempfile, "gettempdir", lambda: str(temporary))
    client = start(folder=None)
    shown = cartridges.upload(client, raw("dutch", 7), id="flemish").json()
    assert (shown["id"], shown["file"]) == ("flemish", None)
    assert list(strict.loaded) == [shown["hash"]]
    assert list(temporary.iterdir()) == []
    error = cartridges.failure(client.post(URL, json={"path": "french.gguf"}), 400, "path")
    assert "--cartridges" in error["message"]
    deleted = client.delete(f"{URL}/flemish", params={"delete_file": True}).json()
    assert deleted == {
        "id": "flemish",
        "object": "cartridge",
        "deleted": True,
        "file_deleted": False,
    }
    assert not strict.loaded


def test_an_upload_never_replaces_a_file_that_is_not_its_own(
    start, strict, folder, raw, cartridges
):
    (folder / "french.gguf").rename(folder / "dutch.gguf")
    admin = start()
    (folder / "late.gguf").symlink_to("nowhere")
    before = cartridges.state(admin, strict, folder)
    for name in ("dutch", "late"):
        error = cartridges.failure(cartridges.upload(admin, raw(name, 7)), 409, "id")
        assert (error["code"], f"{name}.gguf" in error["message"]) == ("conflict", True)
    assert cartridges.state(admin, strict, folder) == before


def test_an_upload_replaces_a_link_and_not_what_it_leads_to(
    start, strict, folder, raw, tmp_path, cartridges
):
    (folder / "french.gguf").unlink()
    elsewhere = tmp_path / "elsewhere.gguf"
    elsewhere.write_bytes(raw(bias=5))
    (folder / "french.gguf").symlink_to(elsewhere)
    admin = start()
    assert cartridges.upload(admin, raw(bias=6)).status_code == 200
    assert elsewhere.read_bytes() == raw(bias=5)
    assert not (folder / "french.gguf").is_symlink()
    cartridges.consistent(admin, strict, folder)


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


def test_broken_uploads_leave_nothing_behind(admin, strict, folder, raw, cartridges):
    before = cartridges.state(admin, strict, folder)
    for i, content in enumerate(broken(raw("dutch", 7))):
        error = cartridges.failure(cartridges.upload(admin, content), 400)
        assert error["code"] == "invalid_cartridge_file", i
        assert "the upload" in error["message"]
        assert str(folder) not in error["message"]
    assert cartridges.state(admin, strict, folder) == before


def test_a_cartridge_for_another_model_leaves_nothing_behind(
    admin, strict, folder, make, tmp_path, cartridges
):
    before = cartridges.state(admin, strict, folder)
    other = replace(make().fingerprint, weights_hash="ffffffffffffffff")
    write_cartridge(replace(make(), fingerprint=other), tmp_path / "other.gguf")
    for options in ({}, {"id": "dutch"}):
        error = cartridges.failure(
            cartridges.upload(admin, (tmp_path / "other.gguf").read_bytes(), **options), 400
        )
        assert error["code"] == "cartridge_model_mismatch"
    assert cartridges.state(admin, strict, folder) == before


def test_an_upload_may_be_larger_than_other_bodies(start, strict, folder, raw, cartridges):
    content = raw("dutch", 7)
    client = start(max_body_bytes=len(content) - 1, max_upload_bytes=len(content))
    before = cartridges.state(client, strict, folder)
    for too_large in (content + b"\0", iter([content, b"\0"])):
        assert (
            cartridges.failure(cartridges.upload(client, too_large), 413)["code"]
            == "body_too_large"
        )
    long_json = json.dumps({"path": "french.gguf", "x": "x" * len(content)})[: len(content)]
    response = client.post(URL, content=long_json, headers={"Content-Type": "application/json"})
    assert cartridges.failure(response, 413)["code"] == "body_too_large"
    response = client.post("/v1/completions", json={**BODY, "prompt": "x" * len(content)})
    assert cartridges.failure(response, 413)["code"] == "body_too_large"
    assert cartridges.state(client, strict, folder) == before
    assert cartridges.upload(client, content).status_code == 201


def test_a_client_that_leaves_in_the_middle_of_its_upload(
    admin, strict, folder, raw, cartridges, until
):
    before = cartridges.state(admin, strict, folder)
    content = raw("dutch", 7)
    head = (
        f"POST {URL} HTTP/1.1\r\nHost: x\r\nX-Api-Key: boss\r\nContent-Length: {len(content)}\r\n"
    )
    address = urlsplit(str(admin.base_url))
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(head.encode() + b"Content-Type: application/octet-stream\r\n\r\n")
        connection.sendall(content[:-1])
        until(lambda: len(list(folder.iterdir())) > 2)
        assert len(list(folder.glob("*.tmp"))) == 1
    until(lambda: not list(folder.glob("*.tmp")))
    assert cartridges.state(admin, strict, folder) == before


@pytest.mark.parametrize("kind", [None, "text/plain", "multipart/form-data; boundary=x"])
def test_other_kinds_of_body(admin, raw, kind, cartridges):
    headers = {} if kind is None else {"Content-Type": kind}
    response = admin.post(URL, content=raw("dutch", 7), headers=headers)
    error = cartridges.failure(response, 415)
    assert error["code"] == "unsupported_media_type"
    assert "application/octet-stream" in error["message"]


def test_a_folder_that_cannot_be_written(admin, strict, folder, raw, cartridges):
    hashes, loaded, _ = cartridges.state(admin, strict, folder)
    # A folder in the file's place: the rename fails after the strict has the cartridge.
    (folder / "french.gguf").unlink()
    (folder / "french.gguf").mkdir()
    assert cartridges.failure(cartridges.upload(admin, raw(bias=7)), 500)["code"] == "storage_error"
    response = admin.delete(f"{URL}/french", params={"delete_file": True})
    assert cartridges.failure(response, 500)["code"] == "storage_error"
    assert list(folder.glob("*.tmp")) == []
    shutil.rmtree(folder)
    error = cartridges.failure(cartridges.upload(admin, raw(bias=7)), 500)
    assert error["code"] == "storage_error"
    assert str(folder) not in error["message"]
    folder.mkdir()
    assert cartridges.state(admin, strict, folder)[:2] == (hashes, loaded)
