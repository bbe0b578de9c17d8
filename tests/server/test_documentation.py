"""What the documentation says of the HTTP API: tables are complete, commands and examples run."""

from __future__ import annotations

import importlib
import importlib.util
import json
import pkgutil
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

import llamacart_server
from llamacart.chat.templates import choose_template
from llamacart.errors import LlamacartError
from llamacart.file.writer import write_cartridge
from llamacart_server.app import create_app
from llamacart_server.library.library import CartridgeLibrary
from llamacart_server.served import ServedModel
from llamacart_server.settings import ServeSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = "admin"
ADDRESS = re.compile(r"(http://)?(localhost|127\.0\.0\.1):80\d\d")
GENERATED = ("ChatBody", "CompletionBody", "ResponsesBody", "EmbeddingsBody")


@pytest.fixture
def document(client):
    return client.get("/openapi.json").json()


def names(cell):
    return re.findall(r"`([^`]+)`", cell)


def test_routes(doc_page, document):
    documented = {
        (method.lower(), path) for method, cell, _ in doc_page("http-api.md").table("routes")
        for path in names(cell)
    }  # fmt: skip
    assert documented == {
        (method, path) for path, methods in document["paths"].items() for method in methods
        if method != "head"
    }  # fmt: skip


def test_fields(doc_page, document):
    """Fields that are refused whatever they ask for have no row."""
    known = set()
    for body in GENERATED:
        for name, field in document["components"]["schemas"][body]["properties"].items():
            if None not in field.get("enum", ()):
                known.add(name)
    documented = [
        n for first, *_ in doc_page("http-api.md").table("fields") for n in names(first)
    ]  # fmt: skip
    assert len(documented) == len(set(documented))
    assert known - set(documented) == set()
    every = {n for b in GENERATED for n in document["components"]["schemas"][b]["properties"]}
    assert set(documented) - every == set()


def test_fields_of_other_servers(doc_page, document):
    """The server's own document lists them in its description."""
    section = doc_page("http-api.md").text.partition("### Fields of other servers")[2]
    documented = set(names(section.partition("<!-- end -->")[0]))
    assert set(names(document["info"].get("description", ""))) - documented == set()


def every_error(kind: type[LlamacartError] = LlamacartError) -> Iterator[type[LlamacartError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from every_error(child)


def test_errors(doc_page):
    for module in pkgutil.walk_packages(llamacart_server.__path__, "llamacart_server."):
        # What an extra brings may be missing; its module defines no error.
        if module.name != "llamacart_server.ray_app.app" or importlib.util.find_spec("ray"):
            importlib.import_module(module.name)
    page = doc_page("http-api.md")
    table = {(int(s), code) for s, cell, _ in page.table("errors") for code in names(cell)}
    ours = [e for e in every_error() if e.__module__.split(".")[0].startswith("llamacart")]
    there = {(e.status, e.code) for e in ours}
    assert table <= there
    section = page.text.partition("\n## Errors\n")[2]
    assert {code for _, code in there if f"`{code}`" not in section} == set()


def test_metrics(doc_page, client, engine):
    client.post("/v1/completions", json={"model": "fake-1b:french", "prompt": "a"})
    there = {
        family.name.removeprefix("llamacart_")
        for family in text_string_to_metric_families(client.get("/metrics").text)
        if not family.name.endswith("_created")
    }
    documented = {n for cell, *_ in doc_page("operating.md").table("metrics") for n in names(cell)}
    assert documented == there


# --- commands and examples ----------------------------------------------------------------------


@pytest.fixture
def address(
    live, engine, embedder, fake_model, cartridge_named, trainer, tmp_path, monkeypatch
) -> str:
    """A server with the model and cartridges that the documentation names."""
    folder = tmp_path / "cartridges"
    folder.mkdir()
    write_cartridge(cartridge_named("french"), folder / "french.gguf")
    write_cartridge(cartridge_named("mine"), tmp_path / "my.gguf")
    library = CartridgeLibrary([cartridge_named(n) for n in ("french", "formal", "spanish")])
    model = ServedModel("gemma-3-270m", ("demo",), 512, fake_model, choose_template(fake_model))
    settings = ServeSettings(cartridges=folder, admin_key=KEY, train_jobs=True)
    monkeypatch.chdir(tmp_path)
    with live(create_app(engine, library, model, settings, embedder)) as url:
        yield url


def curl(command, url):
    """The answer to a curl command line."""
    words = iter(shlex.split(command.replace("$KEY", KEY)))
    assert next(words) == "curl"
    method, headers, body, target = None, {}, None, ""
    for word in words:
        match word:
            case "-s":
                pass
            case "-X":
                method = next(words)
            case "-H":
                name, _, value = next(words).partition(":")
                headers[name] = value.strip()
            case "-d":
                body = next(words).encode()
            case "--data-binary":
                body = Path(next(words).removeprefix("@")).read_bytes()
            case _:
                assert not word.startswith("-"), f"the test does not know curl's {word}"
                target = ADDRESS.sub(url, word)
    return httpx.request(
        method or ("POST" if body else "GET"), target, headers=headers, content=body, timeout=60
    )


def curls(page):
    for _, text in page.blocks("sh"):
        joined = text.replace("\\\n", " ")
        # A body in quotes may go over several lines.
        yield from re.findall(r"^curl (?:'[^']*'|\"[^\"]*\"|[^'\"\n])*", joined, re.MULTILINE)


def test_curl_commands_run(manual_page, address):
    for command in curls(manual_page):
        response = curl(command, address)
        assert response.status_code in (200, 201, 202), (command, response.text)


def test_curl_commands_are_found(doc_page):
    assert len(list(curls(doc_page("http-api.md")))) >= 7


def test_bodies_in_the_text_are_taken(manual_page, address):
    for _, text in manual_page.blocks("json"):
        if '"model"' not in text or '"error"' in text:
            continue
        path = "/v1/chat/completions" if '"messages"' in text else "/v1/completions"
        body = json.loads(text)
        body.setdefault("prompt", "a")
        response = httpx.post(address + path, json=body, timeout=60)
        assert response.status_code == 200, response.text


def test_python_runs(manual_page, address, capsys):
    if manual_page.name == "docs/python.md":  # it has tests of its own
        return
    for info, text in manual_page.blocks("python"):
        if not info:
            code = ADDRESS.sub(address, text)
            exec(compile(code, manual_page.name, "exec"), {"__name__": "example"})  # noqa: S102
