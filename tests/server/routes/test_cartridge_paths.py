"""Cartridges that a request names: hostile ids, and paths that lead out of the folder."""

import json
import os
import shutil
from urllib.parse import quote

import pytest

from llamacart.file.writer import write_cartridge

URL = "/v1/cartridges"
BINARY = {"Content-Type": "application/octet-stream"}
HOSTILE_IDS = [
    "", "../x", "a/b", "/x", ".hidden", "..", "a b", "é", "x" * 65, "x" * 10_000, "a\0b", "a\n",
    "a@1", "a+b", "a:b", "%2e%2e",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_IDS)
def test_hostile_ids(admin, strict, folder, raw, name, cartridges):
    before = cartridges.state(admin, strict, folder)
    cartridges.failure(
        admin.post(f"{URL}?id={quote(name)}", content=raw("x", 7), headers=BINARY), 400, "id"
    )
    cartridges.failure(admin.post(URL, json={"path": "french.gguf", "id": name}), 400, "id")
    body = {"lora_name": name, "lora_path": "french.gguf"}
    cartridges.failure(admin.post("/v1/load_lora_adapter", json=body), 400, "lora_name")
    cartridges.failure(admin.post("/v1/unload_lora_adapter", json={"lora_name": name}), 404)
    assert cartridges.state(admin, strict, folder) == before


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
def test_paths_that_lead_elsewhere(admin, strict, traps, tmp_path, path, cartridges):
    before = cartridges.state(admin, strict, tmp_path)
    path = path.replace("{tmp}", str(tmp_path))
    # As bytes: httpx refuses to send a lone surrogate.
    for url, name, more in (
        (URL, "path", {}),
        ("/v1/load_lora_adapter", "lora_path", {"lora_name": "x"}),
    ):
        content = json.dumps({name: path, **more})
        response = admin.post(url, content=content, headers={"Content-Type": "application/json"})
        error = cartridges.failure(response, 400, name)
        if path.isprintable():  # pydantic refuses a lone surrogate before
            assert "is not the path of a .gguf file in the cartridges folder" in error["message"]
        if str(tmp_path) not in path:
            assert str(tmp_path) not in error["message"]
    assert cartridges.state(admin, strict, tmp_path) == before


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
def test_files_that_are_none(admin, strict, traps, tmp_path, path, status, cartridges):
    before = cartridges.state(admin, strict, tmp_path)
    error = cartridges.failure(admin.post(URL, json={"path": path}), status, "path")
    assert str(tmp_path) not in error["message"]
    assert cartridges.state(admin, strict, tmp_path) == before


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"null", b"\xff", b"[" * 100_000, b"3"])
def test_bodies_that_are_no_object(admin, body, cartridges):
    cartridges.failure(
        admin.post(URL, content=body, headers={"Content-Type": "application/json"}), 400
    )


@pytest.mark.parametrize(
    ("body", "param"), [({}, "path"), ({"path": 3}, "path"), ({"path": "a", "id": 3}, "id")]
)
def test_bad_fields(admin, body, param, cartridges):
    assert param in cartridges.failure(admin.post(URL, json=body), 400, param)["message"]


def test_an_id_in_the_wrong_place_is_not_ignored(admin, cartridges):
    cartridges.failure(admin.post(URL, json={"path": "french.gguf"}, params={"id": "x"}), 400, "id")


@pytest.mark.parametrize("path", ["sub/deep.gguf", "inside.gguf", "{}/sub/deep.gguf"])
def test_paths_inside(admin, strict, traps, path, make, cartridges):
    path = path.format(traps)
    response = admin.post(URL, json={"path": path, "id": "deep"})
    assert response.status_code == 201, response.text
    shown = response.json()
    assert shown["id"] == "deep"
    assert shown["file"] in ("sub/deep.gguf", "inside.gguf")
    assert shown["hash"] == make("french", 1).content_hash
    assert cartridges.ids(admin) == ["deep", "formal", "french"]


def test_a_changed_file_is_read_again(admin, strict, folder, make, cartridges):
    before = admin.get(f"{URL}/french").json()["hash"]
    write_cartridge(make(bias=9), folder / "french.gguf")
    assert admin.get(f"{URL}/french").json()["hash"] == before
    response = admin.post(URL, json={"path": "french.gguf"})
    assert (response.status_code, response.json()["id"]) == (200, "french")
    assert response.json()["hash"] != before
    assert cartridges.consistent(admin, strict, folder)["french"] == response.json()["hash"]
