import threading
from dataclasses import replace

import numpy as np
import pytest

from llamacart.errors import CartridgeMismatchError, InputError
from llamacart.file.writer import write_cartridge
from llamacart_server.library.library import CartridgeLibrary
from llamacart_server.library.refresh import Refresher
from llamacart_server.library.source import Folder
from llamacart_server.library.store import CartridgeStore


class Engine:
    """Knows what is loaded, and refuses what is called `refused`."""

    def __init__(self):
        self.loaded = {}

    def load(self, cartridge):
        if cartridge.name == "refused":
            raise CartridgeMismatchError("weights differ")
        self.loaded[cartridge.content_hash] = cartridge

    def unload(self, cartridge):
        del self.loaded[cartridge.content_hash]


class Followed:
    """A folder, and what is offered of it."""

    def __init__(self, folder, cartridge_named):
        self.folder = folder
        self._named = cartridge_named
        self.engine = Engine()
        self.put("french", 1)
        self.put("formal", 2)
        self.source = Folder(folder)
        self.library = CartridgeLibrary.from_source(self.source, cartridge_named("x").fingerprint)
        for cartridge in self.library:
            self.engine.load(cartridge)
        self.store = CartridgeStore(self.engine, self.library, folder)
        self.refresher = Refresher(self.source, self.library, self.store, 0.001)

    def make(self, name, bias):
        plain = self._named(name)
        layer = replace(plain.layers[0], bias=np.array([bias], np.float32))
        return replace(plain, layers=(layer,))

    def put(self, name, bias, file=None):
        write_cartridge(self.make(name, bias), self.folder / f"{file or name}.gguf")

    def refresh(self):
        self.refresher.refresh()
        offered = {cartridge.content_hash for cartridge in self.library}
        assert set(self.engine.loaded) == offered
        return self.biases

    @property
    def biases(self):
        return {c.name: float(c.layers[0].bias[0]) for c in self.library}

    @property
    def left_out(self):
        return {left.file: left.reason for left in self.library.left_out}


@pytest.fixture
def followed(tmp_path, cartridge_named):
    return Followed(tmp_path, cartridge_named)


def test_new_changed_and_removed_files(followed):
    before = followed.library.snapshot
    assert followed.refresh() == {"french": 1, "formal": 2}
    assert followed.library.snapshot is before
    followed.put("dutch", 3)
    followed.put("french", 4)
    (followed.folder / "formal.gguf").unlink()
    assert followed.refresh() == {"dutch": 3, "french": 4}
    followed.put("german", 5, file="dutch")  # the file states another id now
    assert followed.refresh() == {"german": 5, "french": 4}


def test_a_description_is_news_too(followed):
    cartridge = followed.make("french", 1)
    metadata = replace(cartridge.metadata, description="new")
    write_cartridge(replace(cartridge, metadata=metadata), followed.folder / "french.gguf")
    followed.refresh()
    assert followed.library.get("french").metadata.description == "new"


def test_a_broken_file_harms_nobody(followed):
    path = followed.folder / "french.gguf"
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    followed.put("dutch", 3)
    assert followed.refresh() == {"dutch": 3, "french": 1, "formal": 2}
    assert followed.left_out.keys() == {"french.gguf"}
    assert followed.refresh()["french"] == 1
    followed.put("french", 5)
    assert followed.refresh()["french"] == 5
    assert followed.left_out == {}


def test_a_cartridge_for_another_model_is_left_out_by_name(followed):
    followed.put("refused", 3)
    assert followed.refresh() == {"french": 1, "formal": 2}
    assert followed.left_out == {"refused.gguf": "refused.gguf: weights differ"}
    (followed.folder / "refused.gguf").unlink()
    followed.refresh()
    assert followed.left_out == {}


def test_an_id_that_two_files_have(followed):
    followed.put("french", 3, file="a")
    assert followed.refresh() == {"french": 1, "formal": 2}
    assert followed.left_out == {"a.gguf": "a.gguf: id 'french' is also that of french.gguf"}
    (followed.folder / "french.gguf").unlink()
    assert followed.refresh() == {"french": 3, "formal": 2}
    assert followed.left_out == {}


def test_what_was_removed_over_http_comes_back_when_its_file_changes(followed):
    followed.store.remove("french")
    assert followed.refresh() == {"formal": 2}
    followed.put("dutch", 3)
    assert followed.refresh() == {"dutch": 3, "formal": 2}
    followed.put("french", 4)
    assert followed.refresh() == {"dutch": 3, "formal": 2, "french": 4}


def test_another_id_of_a_file_follows_it(followed):
    followed.store.add_file("french.gguf", "mine")
    followed.put("french", 4)
    assert followed.refresh() == {"formal": 2, "french": 4, "mine": 4}
    (followed.folder / "french.gguf").unlink()
    assert followed.refresh() == {"formal": 2}


def test_an_upload_is_no_news(followed):
    with followed.store.upload_path() as path:
        write_cartridge(followed.make("french", 7), path)
        followed.store.add_upload(path)
    snapshot = followed.library.snapshot
    assert followed.refresh()["french"] == 7
    assert followed.library.snapshot is snapshot


def test_a_folder_that_is_away_takes_nothing_with_it(followed):
    away = followed.folder.with_name("away")
    followed.folder.rename(away)
    with pytest.raises(InputError, match="is missing"):
        followed.refresher.refresh()
    assert followed.biases == {"french": 1, "formal": 2}
    away.rename(followed.folder)
    followed.put("french", 3)
    assert followed.refresh() == {"french": 3, "formal": 2}


def test_a_fetch_that_failed_is_tried_again(followed, monkeypatch):
    followed.put("dutch", 3)
    path = Folder.path

    def failing(self, name, stamp):
        raise InputError("no answer")

    monkeypatch.setattr(Folder, "path", failing)
    assert followed.refresh() == {"french": 1, "formal": 2}
    assert followed.left_out == {"dutch.gguf": "dutch.gguf: no answer"}
    monkeypatch.setattr(Folder, "path", path)
    assert followed.refresh() == {"dutch": 3, "french": 1, "formal": 2}
    assert followed.left_out == {}


def test_the_thread_looks_again_after_a_failure(followed, monkeypatch, caplog):
    """It sees a folder that is away, then a defect, then a new file, and ends when told to."""
    followed.put("dutch", 3)
    look, offered = Folder.look, threading.Event()
    failures = [InputError("is away"), InputError("is away"), ZeroDivisionError()]

    def looking(self):
        if failures:
            raise failures.pop(0)
        return look(self)

    load = followed.engine.load
    monkeypatch.setattr(Folder, "look", looking)
    monkeypatch.setattr(followed.engine, "load", lambda c: (load(c), offered.set()))
    with followed.refresher as refresher:
        assert offered.wait(60)
    assert not refresher._thread.is_alive()
    assert followed.biases == {"dutch": 3, "french": 1, "formal": 2}
    assert [record.message for record in caplog.records if record.levelname != "INFO"] == [
        "is away; what is on offer stays",
        f"cartridges {followed.folder} cannot be refreshed",
    ]
