import socket
from dataclasses import replace
from pathlib import Path

import pytest

from llamacart.errors import (
    CartridgeError,
    CartridgeFormatError,
    CartridgeMismatchError,
    InputError,
    NotFoundError,
)
from llamacart.writer import write_cartridge
from llamacart_server import cli
from llamacart_server.library import CartridgeLibrary
from llamacart_server.served import slug
from llamacart_server.settings import load_settings


def test_command_line_beats_environment_beats_default(monkeypatch):
    monkeypatch.setenv("LLAMACART_PORT", "9000")
    monkeypatch.setenv("LLAMACART_CTX", "100")
    settings = load_settings(port=9001, host=None)
    assert (settings.port, settings.ctx, settings.host) == (9001, 100, "127.0.0.1")


def test_a_bad_setting_names_its_variable(monkeypatch):
    monkeypatch.setenv("LLAMACART_CTX", "many")
    with pytest.raises(InputError, match=r"ctx \(LLAMACART_CTX\) has value 'many'") as caught:
        load_settings()
    assert caught.value.param == "ctx"


def test_an_empty_key_is_no_open_door(monkeypatch):
    monkeypatch.setenv("LLAMACART_API_KEY", "")
    with pytest.raises(InputError, match="api_key"):
        load_settings()


def test_a_key_is_not_shown():
    assert "hunter2" not in repr(load_settings(api_key="hunter2"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Gemma 3 270m", "gemma-3-270m"), ("Qwen2.5/7B (it)", "qwen2.5-7b-it"), ("***", "model")],
)
def test_slug(name, expected):
    assert slug(name) == expected


@pytest.fixture
def folder(tmp_path, cartridge_named) -> Path:
    for name in ("french", "formal"):
        write_cartridge(cartridge_named(name), tmp_path / f"{name}.gguf")
    (tmp_path / "notes.txt").write_text("not a cartridge")
    return tmp_path


@pytest.fixture
def fingerprint(cartridge_named):
    return cartridge_named("x").fingerprint


def test_library_reads_a_folder(folder, fingerprint):
    library = CartridgeLibrary.from_folder(folder, fingerprint)
    assert library.ids == ("formal", "french")
    assert [c.name for c in library] == ["formal", "french"]
    with pytest.raises(NotFoundError, match="'formal', 'french'"):
        library.get("dutch")


def test_an_empty_library_says_so():
    with pytest.raises(NotFoundError, match="none"):
        CartridgeLibrary().get("french")


def test_library_names_a_broken_file(folder, fingerprint):
    (folder / "broken.gguf").write_bytes(b"GGUF")
    with pytest.raises(CartridgeFormatError, match=r"broken\.gguf"):
        CartridgeLibrary.from_folder(folder, fingerprint)


def test_library_names_a_file_for_another_model(folder, fingerprint):
    other = replace(fingerprint, weights_hash="ffffffffffffffff")
    with pytest.raises(CartridgeMismatchError, match=r"formal\.gguf: .*weights differ"):
        CartridgeLibrary.from_folder(folder, other)
    assert len(CartridgeLibrary.from_folder(folder, other, force=True)) == 2
    with pytest.raises(CartridgeMismatchError, match="shapes differ"):
        CartridgeLibrary.from_folder(folder, replace(other, n_layer=3), force=True)


def test_library_refuses_two_files_with_one_id(folder, fingerprint, cartridge_named):
    write_cartridge(cartridge_named("french"), folder / "zwei.gguf")
    with pytest.raises(CartridgeError, match=r"zwei\.gguf: id 'french' is also that of .*french"):
        CartridgeLibrary.from_folder(folder, fingerprint)
    with pytest.raises(CartridgeError, match="two cartridges"):
        CartridgeLibrary([cartridge_named("a"), cartridge_named("a")])


def test_library_wants_a_folder(tmp_path, fingerprint):
    with pytest.raises(InputError, match="nowhere"):
        CartridgeLibrary.from_folder(tmp_path / "nowhere", fingerprint)


def test_a_port_that_is_taken():
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(InputError, match="cannot listen on 127"),
    ):
        cli._listen("127.0.0.1", taken.getsockname()[1])
