import socket
import tomllib
from dataclasses import replace
from pathlib import Path

import gguf
import pytest
import typer
from typer.testing import CliRunner

from llamacart.errors import (
    CartridgeError,
    InputError,
    NotFoundError,
)
from llamacart.file.writer import write_cartridge
from llamacart_server.commands import serve as cli
from llamacart_server.library.library import CartridgeLibrary
from llamacart_server.served import slug
from llamacart_server.settings import ServeSettings, load_settings, unknown_variables


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


def test_variables_that_are_no_settings():
    there = ["LLAMACART_MAX_TOKEN", "LLAMACART_CTX", "llamacart_port", "LLAMACART_CONFIG"]
    there += ["LLAMACART_CACHE", "LLAMACART_SERVICE_HOST", "PATH"]
    first, second = unknown_variables(there)
    assert first.startswith("LLAMACART_MAX_TOKEN is set")
    assert first.endswith("did you mean LLAMACART_MAX_TOKENS?")
    assert second.startswith("LLAMACART_SERVICE_HOST is set")


def test_an_empty_variable_is_not_set(monkeypatch):
    """Compose files pass variables on whether they have a value or not."""
    expected = load_settings().model_dump()
    for name in ServeSettings.model_fields:
        monkeypatch.setenv(f"LLAMACART_{name.upper()}", "")
    assert load_settings().model_dump() == expected
    assert (load_settings().api_key, load_settings().admin_key) == ((), None)


def test_a_key_that_is_given_and_empty_is_no_open_door(config):
    with pytest.raises(InputError, match="api_key"):
        load_settings(api_key=[""])
    for name in ("api_key", "admin_key"):
        with pytest.raises(InputError, match=name):
            load_settings(config(f'{name} = ""'))


@pytest.mark.parametrize(
    ("given", "host"), [("[::1]", "::1"), ("::1", "::1"), ("[fe80::1%lo]", "fe80::1%lo")]
)
def test_an_address_may_be_in_brackets(given, host):
    assert load_settings(host=given).host == host


def test_addresses_are_printed_as_they_stand_in_a_url():
    assert cli._address("::1", 8080) == "[::1]:8080"
    assert cli._address("127.0.0.1", 8080) == "127.0.0.1:8080"
    with pytest.raises(InputError, match=r"cannot listen on \[2001:db8::1\]:1"):
        cli._listen("2001:db8::1", 1)


def test_a_key_is_not_shown():
    assert "hunter2" not in repr(load_settings(api_key="hunter2"))


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "llamacart.toml"

    def write(text: str) -> Path:
        path.write_text(text)
        return path

    return write


def test_the_file_is_beaten_by_the_environment_and_the_command_line(config, monkeypatch):
    path = config("port = 9000\nctx = 100\nbatch = 64\ncors_origin = ['http://a', 'http://b']\n")
    monkeypatch.setenv("LLAMACART_PORT", "9001")
    monkeypatch.setenv("LLAMACART_CTX", "101")
    settings = load_settings(path, port=9002)
    assert (settings.port, settings.ctx, settings.batch) == (9002, 101, 64)
    assert settings.cors_origin == ("http://a", "http://b")
    monkeypatch.setenv("LLAMACART_CONFIG", str(path))
    assert load_settings().batch == 64


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_token = 5", "there is no setting 'max_token'; did you mean 'max_tokens'"),
        ("zzz = 5", "there is no setting 'zzz'$"),
        ("port = 'many'", "port .LLAMACART_PORT. has value 'many'"),
        ("port = ", r"configuration file .*llamacart\.toml: not TOML"),
        ("port = " + 5000 * "[", "not TOML .nested too deep"),
    ],
)
def test_a_bad_file_says_where(config, text, message):
    with pytest.raises(InputError, match=message):
        load_settings(config(text))


def test_a_file_of_another_system(config):
    path = config("")
    path.write_bytes(b"\xef\xbb\xbfctx = 100\r\nbatch = 64\r\n")
    assert load_settings(path).batch == 64
    path.write_bytes("ctx = 100".encode("utf-16"))
    with pytest.raises(InputError, match=r"configuration file .*: it is UTF-16; save it as UTF-8"):
        load_settings(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.toml"):
        load_settings(tmp_path / "nowhere.toml")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cors_origin", "example.com"),
        ("cors_origin", "https://example.com/"),
        ("trusted_proxy", "10.0.0.1,proxy.local"),
        ("api_key", "a,,b"),
        ("log_format", "xml"),
        ("request_timeout", float("inf")),
        ("keep_alive", -1),
        ("host", ""),
        ("host", "[]"),
    ],
)
def test_bad_values_are_refused(name, value):
    with pytest.raises(InputError, match=f"setting {name}") as caught:
        load_settings(**{name: value})
    assert name != "api_key" or "a,,b" not in str(caught.value)


def test_lists_by_commas_and_repetition(monkeypatch):
    monkeypatch.setenv("LLAMACART_TRUSTED_PROXY", "10.0.0.0/8, ::1")
    settings = load_settings(api_key=["a,b", "c"])
    assert [key.get_secret_value() for key in settings.api_key] == ["a", "b", "c"]
    assert settings.trusted_proxy == ("10.0.0.0/8", "::1")


def command(*arguments):
    app = typer.Typer()
    app.command()(cli.serve)
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False, color=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_print_config_reads_back(config):
    options = ["--api-key", "hunter2", "--api-key", "x,y", "--cors-origin", "http://a"]
    options += ["--model", 'a "b"\\ö', "--no-batch-invariant", "--dose-limit", "0.5"]
    printed = command("--print-config", *options)
    assert "hunter2" not in printed
    assert "# api_key: 3 given, not shown" in printed
    values = tomllib.loads(printed)
    assert (values["model"], values["batch_invariant"]) == ('a "b"\\ö', False)
    again = load_settings(config(printed), api_key=["hunter2", "x", "y"])
    assert again.dose_limit == 0.5
    assert (
        again.model_dump()
        == load_settings(
            api_key=["hunter2", "x", "y"],
            cors_origin=["http://a"],
            model='a "b"\\ö',
            batch_invariant=False,
            dose_limit=0.5,
        ).model_dump()
    )


def test_every_setting_is_an_option_in_a_panel(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    shown = command("--help")
    for name in ServeSettings.model_fields:
        assert f"--{name.replace('_', '-')} " in shown.replace("/", " ").replace(",", " "), name
    for panel in ("Network", "Who may use it", "Capacity", "Configuration file"):
        assert f"─ {panel} ─" in shown
    assert "--no-force" in shown
    assert "8192" in shown


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


def test_library_reads_names_in_upper_case(folder, fingerprint):
    (folder / "french.gguf").rename(folder / "FRENCH.GGUF")
    assert CartridgeLibrary.from_folder(folder, fingerprint).ids == ("formal", "french")


def test_an_empty_library_says_so():
    with pytest.raises(NotFoundError, match="none"):
        CartridgeLibrary().get("french")


def test_library_leaves_out_what_cannot_be_used(folder, fingerprint, cartridge_named):
    other = replace(fingerprint, weights_hash="ffffffffffffffff", n_layer=3)
    (folder / "broken.gguf").write_bytes(b"GGUF")
    (folder / "folder.gguf").mkdir()
    (folder / "gone.gguf").symlink_to(folder / "nothing")
    write_cartridge(replace(cartridge_named("theirs"), fingerprint=other), folder / "theirs.gguf")
    write_cartridge(cartridge_named("french"), folder / "zwei.gguf")
    write_cartridge(cartridge_named("loud"), folder / "LOUD.GGUF")
    writer = gguf.GGUFWriter(folder / "model.gguf", "gemma3")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    library = CartridgeLibrary.from_folder(folder, fingerprint)
    assert library.ids == ("formal", "french", "loud")
    reasons = {left.file: left.reason for left in library.left_out}
    expected = {
        "broken.gguf": "ends at byte",
        "folder.gguf": "is not a regular file",
        "gone.gguf": "no cartridge file",
        "model.gguf": "",
        "theirs.gguf": "shapes differ",
        "zwei.gguf": "id 'french' is also that of french.gguf",
    }
    assert reasons.keys() == expected.keys()
    for name, reason in expected.items():
        assert reasons[name].startswith(name) or name in reasons[name]
        assert reason in reasons[name]
        assert str(folder) not in reasons[name]
    for name in expected:
        alone = folder.parent / f"only-{name}"
        alone.mkdir()
        (folder / name).rename(alone / name)
        if name == "zwei.gguf":
            write_cartridge(cartridge_named("french"), alone / "french.gguf")
        with pytest.raises(CartridgeError, match=name):
            CartridgeLibrary.from_folder(alone, fingerprint, strict=True)
    assert CartridgeLibrary.from_folder(folder, fingerprint, strict=True).left_out == ()


def test_library_takes_other_weights_of_the_same_shape_by_force(folder, fingerprint):
    other = replace(fingerprint, weights_hash="ffffffffffffffff")
    library = CartridgeLibrary.from_folder(folder, other)
    assert (library.ids, len(library.left_out)) == ((), 2)
    assert "weights differ" in library.left_out[0].reason
    assert len(CartridgeLibrary.from_folder(folder, other, force=True)) == 2
    other = replace(other, n_layer=3)
    assert len(CartridgeLibrary.from_folder(folder, other, force=True)) == 0


def test_two_cartridges_with_one_name(cartridge_named):
    with pytest.raises(CartridgeError, match="two cartridges"):
        CartridgeLibrary([cartridge_named("a"), cartridge_named("a")])


def test_library_wants_a_folder(tmp_path, fingerprint):
    with pytest.raises(InputError, match="nowhere"):
        CartridgeLibrary.from_folder(tmp_path / "nowhere", fingerprint)


def test_connections_do_not_wait_to_fill_packets():
    with (
        cli._listen("127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()),
    ):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_port_that_is_taken():
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(InputError, match="cannot listen on 127"),
    ):
        cli._listen("127.0.0.1", taken.getsockname()[1])
