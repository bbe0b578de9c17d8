"""A server whose cartridges an administrator changes, and how its state is read."""

import threading
from contextlib import ExitStack
from dataclasses import replace

import httpx
import numpy as np
import pytest

from llamacart.errors import NotFoundError
from llamacart.file.reader import read_cartridge
from llamacart.file.writer import write_cartridge
from llamacart_server.app import create_app
from llamacart_server.library.library import CartridgeLibrary
from llamacart_server.settings import ServeSettings

URL = "/v1/cartridges"
BINARY = {"Content-Type": "application/octet-stream"}


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
def strict(shared_engine):
    """An engine that refuses cartridges which it does not hold."""

    class StrictEngine(type(shared_engine)):
        def submit(self, request):
            for placed in request.doses:
                if placed.dose.cartridge.content_hash not in self.loaded:
                    raise NotFoundError("not loaded", param="cartridges")
            return super().submit(request)

    return StrictEngine()


@pytest.fixture
def start(strict, folder, served, live, make):
    """Function to the admin's client of a server of its own."""
    with ExitStack() as stack:

        def start(folder=folder, model=served, **settings):
            library = CartridgeLibrary()
            if folder is not None:
                library = CartridgeLibrary.from_folder(folder, make().fingerprint)
            for cartridge in library:
                strict.load(cartridge)
            settings = {"admin_key": "boss", "cartridges": folder, **settings}
            url = stack.enter_context(
                live(create_app(strict, library, model, ServeSettings(**settings)))
            )
            headers = {"Authorization": "Bearer boss"}
            return stack.enter_context(httpx.Client(base_url=url, timeout=60, headers=headers))

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


class Cartridges:
    """What tests use, as one fixture: this file cannot be imported."""

    upload = staticmethod(upload)
    failure = staticmethod(failure)
    ids = staticmethod(ids)
    state = staticmethod(state)
    consistent = staticmethod(consistent)


@pytest.fixture(scope="session")
def cartridges():
    """Functions that change what is on offer, and that say what it is."""
    return Cartridges
