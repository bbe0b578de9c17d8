"""Commands in the documentation: every one is parsed, and those that take no time run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from llamacart.cartridge import Cartridge, LayerMap, Metadata
from llamacart.cli import build_app
from llamacart.file.writer import write_cartridge
from llamacart_server.ray_app.arguments import read_arguments

ROOT = Path(__file__).parents[2]
NO_TEST = "no-test:"
APP = build_app()
GROUP = typer.main.get_command(APP)


def commands(text):
    """Words of each command, without comments."""
    lines = re.sub(r"(^|\s)#[^\n]*", r"\1", text.replace("\\\n", " "))
    # A quoted string may hold line breaks.
    lexer = shlex.shlex(lines, posix=True, punctuation_chars="\n|&;")
    lexer.whitespace = " \t"
    lexer.commenters, lexer.whitespace_split = "", True
    found, words = [], []
    for word in lexer:
        if set(word) <= set("\n|&;"):
            found.append(words)
            words = []
        else:
            words.append(word)
    return [words for words in (*found, words) if words]


def without_variables(words):
    while words and re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    return words


def parse_llamacart(arguments):
    """Fails where a command, an option or the type of a value is not known."""
    name, *rest = arguments
    context = GROUP.make_context("llamacart", [name])
    command = GROUP.get_command(context, name)
    assert command is not None, f"No such command {name!r}"
    with command.make_context(name, rest, parent=context):
        pass


def check(words):
    """One command as far as it can be checked without running it."""
    program, *arguments = without_variables(words)
    match program.rsplit("/", 1)[-1]:
        case "llamacart":
            parse_llamacart(arguments)
        case "make":
            makefile = (ROOT / "Makefile").read_text("utf-8")
            for target in arguments:
                assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
        case "python":
            script = (ROOT / arguments[0]).read_text("utf-8")
            assert all(word in script for word in arguments if word.startswith("--"))
        case "cp":
            assert (ROOT / arguments[-2]).exists()
        case "." | "cd" | "curl" | "git" | "mkdir":
            pass
        case "serve":  # Ray's
            assert arguments[:2] == ["run", "llamacart_server.ray_app.app:build"]
            read_arguments(dict(argument.split("=") for argument in arguments[2:]))
        case _:
            pytest.fail(f"no test knows how to check {program!r}")


def test_commands_are_found():
    text = "a 'b\nc' \\\n  -d # it's no command\nA=1 x | y & z\n"
    assert commands(text) == [["a", "b\nc", "-d"], ["A=1", "x"], ["y"], ["z"]]


@pytest.mark.parametrize("line", ["serve --no-such", "nothing", "serve --port many", "inspect"])
def test_wrong_commands_are_noticed(line):
    with pytest.raises(Exception, match=r"No such|Missing|valid integer"):
        parse_llamacart(line.split())


def test_every_command_is_right(manual_page):
    for _, text in manual_page.blocks("sh"):
        for words in commands(text):
            check(words)


def test_what_does_not_run_says_why(manual_page):
    for info, _ in manual_page.blocks("sh"):
        assert not info or re.fullmatch(rf"{NO_TEST} \w.{{5,}}", info)


def test_help_holds_nothing_that_rich_takes_for_markup():
    texts = []
    for command in GROUP.commands.values():
        texts += [command.help or "", *(getattr(p, "help", None) or "" for p in command.params)]
    assert len(texts) > 50
    assert [text for text in texts if re.search(r"(?<!\\)\[/?[a-z]", text)] == []


@pytest.fixture
def folder(tmp_path, monkeypatch, demo_model):
    """A folder with the files that commands name."""
    print_ = demo_model.fingerprint
    delta = np.zeros((1, print_.n_ff))
    layer = LayerMap.from_dense(0, np.array([3]), delta, np.ones(1))
    for name in ("demo/french.gguf", "my-cartridges/spanish.gguf"):
        path = tmp_path / name
        path.parent.mkdir()
        write_cartridge(Cartridge(Metadata(path.stem), print_, (layer,)), path)
    (tmp_path / "keys.txt").write_text("secret\n")
    monkeypatch.chdir(tmp_path)
    for variable in ("LLAMACART_CONFIG", "LLAMACART_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


def test_commands_run(manual_page, folder):
    for info, text in manual_page.blocks("sh"):
        for words in () if info else commands(text):
            program, *arguments = words
            if program == "curl":  # tests/server/test_documentation.py
                continue
            assert program == "llamacart", f"say why {words} is not run"
            result = CliRunner().invoke(APP, arguments)
            assert result.exit_code == 0, (words, result.output, result.exception)
            assert result.output
