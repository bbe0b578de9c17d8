"""One line and an exit code for what goes wrong around a command: streams, disks, Ctrl-C."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
from rich.table import Table

import llamacart as core
import llamacart_server
import llamacart_trainer
from llamacart.cartridge import Cartridge, Fingerprint, LayerMap, Metadata
from llamacart.cli import main
from llamacart.commands.terminal import plain_console, run, tells
from llamacart.errors import InputError, ModelError, ReaderGoneError
from llamacart.file.writer import write_cartridge
from llamacart.llama.resolve import resolve_model


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cartridge") / "small.gguf"
    layer_map = LayerMap.from_dense(1, np.array([2]), np.ones((1, 32)), np.zeros(1))
    fingerprint = Fingerprint("llama", 2, 32, 16, "ab" * 32, "tiny")
    metadata = Metadata("small", description="α is small")
    write_cartridge(Cartridge(metadata, fingerprint, (layer_map,)), path)
    return path


def llamacart(*args: object, **given: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "llamacart", *map(str, args)]
    return subprocess.run(  # noqa: S603
        command,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "check": False, **given},  # type: ignore[call-overload]
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is full")
@pytest.mark.parametrize(("unbuffered", "options"), [("", ()), ("1", ("--json",))])
def test_a_full_disk_is_one_line(file: Path, unbuffered: str, options: tuple[str, ...]) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with Path("/dev/full").open("w") as full:
        done = llamacart("inspect", file, *options, stdout=full, env=environment)
    assert done.returncode == 2
    assert done.stderr == b"error: standard output: No space left on device\n"


COMMANDS = sorted({point.name for point in entry_points(group="llamacart.commands")})


def printed_to_nobody(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[object, str]:
    """Exit code and stderr of a command whose output's reader has gone."""
    reading, writing = os.pipe()
    os.close(reading)
    monkeypatch.setattr(sys, "argv", ["llamacart", *arguments])
    with os.fdopen(writing, "w") as pipe, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", pipe)
        with pytest.raises(SystemExit) as stop:
            main()
    return stop.value.code, capsys.readouterr().err


@pytest.mark.parametrize("command", ["", "inspect", *COMMANDS])
def test_nothing_is_told_where_nobody_reads_the_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    arguments = [*([command] if command else []), "--help"]
    assert printed_to_nobody(monkeypatch, capsys, *arguments) == (141, "")


def test_nothing_is_told_where_nobody_reads_a_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], file: Path
) -> None:
    assert printed_to_nobody(monkeypatch, capsys, "inspect", str(file)) == (141, "")


def test_a_process_whose_reader_has_gone_ends_as_others_do(file: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        done = llamacart("inspect", file, stdout=pipe)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize(
    ("full_disk", "line"), [(True, "stopped: nobody reads the output; all is kept\n"), (False, "")]
)
def test_what_stays_of_work_is_told_where_nobody_reads(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], full_disk: bool, line: str
) -> None:
    @tells(lambda _given: "all is kept", full_disk=full_disk)
    def command() -> None:
        fails(ReaderGoneError(""))

    with pytest.raises(SystemExit) as stop:
        run(command)
    assert (stop.value.code, capsys.readouterr().err) == (141, line)


def test_a_terminal_that_lacks_characters(file: Path) -> None:
    narrow = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    done = llamacart("inspect", file, env=narrow)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"? is small" in done.stdout
    assert done.stdout.isascii()
    as_json = llamacart("inspect", "--json", file, env=narrow)
    assert json.loads(as_json.stdout)["description"] == "α is small"


def test_a_cache_that_is_a_file_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("mine")
    monkeypatch.setenv("LLAMACART_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ModelError, match=r"'demo' cannot be written to .*(File exists|Not a dir)"):
        resolve_model("demo")
    assert (tmp_path / "cache").read_text() == "mine"


def fails(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (InputError("it is no good"), "error: it is no good\n", 2),
        (OSError(errno.ENOSPC, "No space left on device"), "error: No space left on device\n", 2),
        (PermissionError(13, "Permission denied", "/x"), "error: '/x': Permission denied\n", 2),
        (OSError("a reason alone"), "error: a reason alone\n", 2),
        (KeyboardInterrupt(), "stopped\n", 130),
        (SystemExit(130), "stopped\n", 130),
        (SystemExit(1), "", 1),
    ],
)
def test_what_goes_wrong(
    capsys: pytest.CaptureFixture[str], error: BaseException, line: str, code: int
) -> None:
    with pytest.raises(SystemExit) as stop:
        run(lambda: fails(error))
    assert stop.value.code == code
    assert capsys.readouterr().err == line


def test_a_fault_of_the_program_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 // 0)


def test_ctrl_c_tells_what_stays(capsys: pytest.CaptureFixture[str]) -> None:
    @tells(lambda given: f"{given['n']} layers are kept")
    def command(n: int) -> None:
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(SystemExit) as stop:
        run(lambda: command(n=3))
    assert stop.value.code == 130
    assert capsys.readouterr().err == "stopped: 3 layers are kept\n"


def test_a_full_disk_tells_what_stays() -> None:
    @tells(lambda given: f"{given['n']} layers are kept", full_disk=True)
    def command(n: int) -> None:
        if n == 0:
            raise InputError("something else")
        raise InputError("cannot write 'x'") from OSError()

    with pytest.raises(InputError) as full:
        command(n=3)
    assert full.value.message == "cannot write 'x'; 3 layers are kept"
    with pytest.raises(InputError) as other:
        command(n=0)
    assert other.value.message == "something else"


def test_a_progress_bar_that_cannot_be_drawn_is_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failed: list[object] = []
    monkeypatch.setattr(threading, "excepthook", failed.append)

    def draw() -> None:
        print("bar", flush=True)

    def command() -> None:
        thread = threading.Thread(target=draw)
        thread.start()
        thread.join()

    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit) as stop:
            run(command)
        assert sys.stdout is full
    assert (stop.value.code, failed) == (2, [])
    assert capsys.readouterr().err == "error: standard output: No space left on device\n"


def test_no_text_is_taken_for_markup(capsys):
    """A path, a name or a model's answer may hold what Rich would read as a style."""
    console = plain_console()
    table = Table("file [bold]")
    table.add_row("a[/]b")
    console.print("written to x[red].gguf")
    console.print(table)
    out = capsys.readouterr().out
    assert "x[red].gguf" in out
    assert "file [bold]" in out
    assert "a[/]b" in out


def test_every_command_prints_by_it():
    packages = (core, llamacart_server, llamacart_trainer)
    sources = [p for package in packages for p in Path(package.__file__).parent.rglob("*.py")]
    own = [path.name for path in sources if "Console(" in path.read_text("utf-8")]
    assert own == ["terminal.py"]
