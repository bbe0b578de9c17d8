"""`llamacart chat` and `llamacart models` against a server on a real socket."""

import json
import socket
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from llamacart.errors import EngineError, InputError
from llamacart.file.writer import write_cartridge
from llamacart_server.commands.chat import chat
from llamacart_server.commands.models import models
from llamacart_server.commands.remote import Remote, RemoteError
from llamacart_server.engine.request import TokenEvent


def run(command, *arguments, typed=""):
    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, [str(a) for a in arguments], input=typed)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def talk(client, *lines, options=()):
    return run(chat, client.base_url, *options, typed="".join(f"{line}\n" for line in lines))


def doses(request):
    return [(placed.dose.cartridge.name, placed.dose.alpha) for placed in request.doses]


def text(request, fake_model):
    return fake_model.detokenize(request.prompt, special=True)


def test_a_conversation_changes_cartridges(client, engine, fake_model):
    shown = talk(client, "Hi", "/use french", "Again", "/use formal 0.25", "More", "/off", "Last")
    assert [doses(r) for r in engine.requests] == [[], [("french", 0.8)], [("formal", 0.25)], []]
    assert "fake-1b; cartridges: formal, french" in shown
    assert "french@0.8 > " in shown
    assert shown.count("hello") == 4
    second, last = (text(engine.requests[i], fake_model) for i in (1, 3))
    assert "Hi" in second
    assert "hello" in second
    assert all(word in last for word in ("Hi", "Again", "More", "Last"))


def test_reset_forgets_all_but_the_system_message(client, engine, fake_model):
    talk(client, "Hi", "/reset", "New", options=["--system", "Be brief.", "--max-tokens", "7"])
    assert "Be brief." in text(engine.requests[1], fake_model)
    assert "Hi" not in text(engine.requests[1], fake_model)
    assert engine.requests[1].max_tokens == 7


def test_examples_stand_before_the_conversation(client, engine, fake_model, tmp_path):
    turns = [{"role": "user", "content": "Ahoy"}, {"role": "assistant", "content": "Arr"}]
    (tmp_path / "turns.jsonl").write_text("\n".join(map(json.dumps, turns)) + "\n")
    given = ["--system", "Be brief.", "--examples", tmp_path / "turns.jsonl"]
    shown = talk(client, "Hi", "/bare", "More", "/bare", "/reset", "New", options=given)
    first, bare, new = (text(request, fake_model) for request in engine.requests)
    places = [first.index(said) for said in ("Be brief.", "Ahoy", "Arr", "Hi")]
    assert places == sorted(places)
    assert [said in bare for said in ("Be brief.", "Ahoy", "Hi", "More")] == [
        False,
        False,
        True,
        True,
    ]
    assert [said in new for said in ("Be brief.", "Ahoy", "Hi", "New")] == [True, True, False, True]
    assert "now without what stood before" in shown
    assert "now with what stood before" in shown


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", r"turns.jsonl: no turns"),
        ("{", r"turns.jsonl:1: not JSON"),
        ('\n["a"]', r"turns.jsonl:2: \['a'\] is not an object"),
        ('{"content": "a"}', r":1: 'role' has value None"),
        ('{"role": "assitant", "content": "a"}', r":1: 'role' .*; did you mean 'assistant'\?$"),
        ('{"role": "user", "content": " "}', r":1: 'content' has value ' '; a text is needed"),
    ],
)
def test_examples_that_are_none(tmp_path, lines, message):
    path = tmp_path / "turns.jsonl"
    path.write_text(lines)
    with pytest.raises(InputError, match=message):
        run(chat, "http://127.0.0.1:1", "--examples", path)


def test_quit_ends_it(client, engine):
    talk(client, "/quit", "Hi")
    assert not engine.requests


def test_what_goes_wrong_is_shown_and_it_goes_on(client, engine):
    engine.script = [TokenEvent(107), EngineError("it broke")]
    shown = talk(
        client,
        "Hi",
        "/use dutch",
        "/use french much",
        "/use french 11",
        "/use",
        "/dance",
        "/help",
    )
    assert "it broke" in shown
    assert "no cartridge 'dutch'; the server has 'formal', 'french'" in shown
    assert "alpha 'much' is not a number" in shown
    assert "11" in shown
    assert "usage: /use" in shown
    assert "unknown command '/dance'" in shown
    assert "forget the conversation" in shown


def test_a_failed_answer_is_no_part_of_the_conversation(client, engine, fake_model):
    engine.refusals = [EngineError("it broke")]
    assert "it broke" in talk(client, "First", "Second")
    (request,) = engine.requests
    assert "First" not in text(request, fake_model)


def test_markup_is_only_text(client, engine):
    engine.say("[red]x[/] :smile:")
    assert "[red]x[/] :smile:" in talk(client, "[bold]")


def test_keys_of_the_server(serve, engine):
    client = serve(engine, api_key="k")
    with pytest.raises(RemoteError, match="a valid API key is needed"):
        run(models, client.base_url)
    assert "fake-1b:french" in run(models, client.base_url, "--api-key", "k,other")


def test_nobody_there():
    with socket.socket() as taken:  # and nobody listens
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(RemoteError, match="cannot be reached"):
            run(models, f"http://127.0.0.1:{taken.getsockname()[1]}")
    with pytest.raises(InputError, match="ftp://x"):
        run(chat, "ftp://x")


def test_an_answer_that_is_no_error_of_ours(client):
    with pytest.raises(RemoteError, match=r"Not Found: GET /v1/nothing"):
        Remote(f"{client.base_url}/v1/")._open("/v1/nothing")


def test_models_of_a_server(client):
    rows = json.loads(run(models, client.base_url, "--json"))
    assert [row["id"] for row in rows] == ["fake-1b", "fake-1b:formal", "fake-1b:french"]
    assert rows[2]["alpha"] == 0.8
    assert rows[0]["hash"] is None
    assert "About french." in run(models, f"{client.base_url}/v1")


def test_models_of_files(tmp_path, tiny_path, tiny_model, cartridge_named):
    shaped = replace(cartridge_named("polite", 0.5), fingerprint=tiny_model.fingerprint)
    write_cartridge(shaped, tmp_path / "polite.gguf")
    config = tmp_path / "serve.toml"
    config.write_text(f"cartridges = '{tmp_path}'\n")
    rows = json.loads(run(models, "--model", tiny_path(), "--config", config, "--json"))
    assert [row["id"] for row in rows] == ["tiny", "tiny:polite"]
    assert (rows[1]["alpha"], rows[1]["hash"]) == (0.5, shaped.content_hash)


def test_commands_are_registered():
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    points = project["project"]["entry-points"]["llamacart.commands"]
    assert points["chat"] == f"{chat.__module__}:chat [server]"
    assert points["models"] == f"{models.__module__}:models [server]"
    assert points["doctor"] == "llamacart.commands.doctor:doctor"
