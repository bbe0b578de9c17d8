import threading
from dataclasses import replace

import numpy as np
import pytest

from llamacart.errors import CartridgeError, ModelNotFoundError
from llamacart.file.writer import write_cartridge
from llamacart_server.library.library import CartridgeLibrary
from llamacart_server.library.source import Folder
from llamacart_server.library.store import CartridgeStore
from llamacart_server.ray_app.shelf import Shelf


class Engine:
    def __init__(self):
        self.loaded = []

    def load(self, cartridge):
        self.loaded.append(cartridge.content_hash)

    def unload(self, cartridge):
        self.loaded.remove(cartridge.content_hash)


@pytest.fixture
def put(tmp_path, cartridge_named):
    def put(file, bias, name="inside"):
        plain = cartridge_named(name)
        layer = replace(plain.layers[0], bias=np.array([bias], np.float32))
        write_cartridge(replace(plain, layers=(layer,)), tmp_path / f"{file}.gguf")

    put("french", 1)
    put("formal", 2)
    return put


@pytest.fixture
def library():
    return CartridgeLibrary()


@pytest.fixture
def engine():
    return Engine()


@pytest.fixture
def shelf(put, library, engine, tmp_path):
    return Shelf(Folder(tmp_path), CartridgeStore(engine, library))


def test_a_cartridge_is_loaded_when_it_is_asked_for(shelf, library, engine):
    assert (shelf.ids, library.ids, engine.loaded) == (["formal", "french"], (), [])
    shelf.load("french")
    shelf.load("french")
    assert library.ids == ("french",)  # the file's name, not the name inside
    assert len(engine.loaded) == shelf.n_loads("french") == 1
    shelf.evict("french")
    assert (library.ids, engine.loaded) == ((), [])
    shelf.evict("french")
    shelf.load("french")
    assert shelf.n_loads("french") == 2


def test_what_a_request_holds_is_evicted_at_its_end(shelf, library, engine):
    use, other = shelf.use(["french"]), shelf.use(["french", "formal"])
    shelf.load("french")
    shelf.evict("french")
    use.end()
    assert library.ids == ("french",)
    other.end()
    assert (library.ids, engine.loaded) == ((), [])


def test_what_was_loaded_for_a_client_that_left(shelf, library):
    use = shelf.use(["french"])
    shelf.load("french")
    shelf.evict_at_release("french")
    assert library.ids == ("french",)
    use.end()
    assert library.ids == ()


def test_the_end_of_a_request_does_not_wait_for_a_load(shelf, monkeypatch):
    """Another request's cartridge may come from far away."""
    ended = []
    use = shelf.use(["french"])
    shelf.load("french")
    path = Folder.path

    def slow(self, name, stamp):
        thread = threading.Thread(target=lambda: ended.append(use.end()))
        thread.start()
        thread.join(60)
        assert not thread.is_alive()
        return path(self, name, stamp)

    monkeypatch.setattr(Folder, "path", slow)
    shelf.load("formal")
    assert ended == [None]


def test_what_is_wanted_again_is_not_evicted(shelf, library):
    use = shelf.use(["french"])
    shelf.load("french")
    shelf.evict("french")
    shelf.load("french")
    use.end()
    assert library.ids == ("french",)
    assert shelf.n_loads("french") == 1


def test_changes_are_seen_at_the_next_use(shelf, library, put, tmp_path):
    shelf.load("french")
    put("french", 5)
    put("dutch", 6)
    (tmp_path / "formal.gguf").unlink()
    shelf.look()
    assert shelf.ids == ["dutch", "french"]
    assert library.get("french").layers[0].bias[0] == 1
    shelf.load("french")
    shelf.load("dutch")
    assert library.get("french").layers[0].bias[0] == 5
    with pytest.raises(
        ModelNotFoundError, match="no cartridge 'formal'; GET /v1/models lists the 2"
    ):
        shelf.load("formal")


def test_a_broken_file_is_refused_by_name(shelf, library, tmp_path):
    (tmp_path / "formal.gguf").write_bytes(b"GGUF")
    shelf.look()
    with pytest.raises(CartridgeError, match=r"formal\.gguf"):
        shelf.load("formal")
    shelf.load("french")
    assert library.ids == ("french",)


def test_a_shelf_without_a_source(library, engine):
    shelf = Shelf(None, CartridgeStore(engine, library))
    assert shelf.ids == []
    with pytest.raises(ModelNotFoundError):
        shelf.load("french")
