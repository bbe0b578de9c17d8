import hashlib
import json
import os
import time
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from llamacart.errors import CartridgeError, InputError
from llamacart.file.reader import read_cartridge
from llamacart.file.writer import write_cartridge
from llamacart_server.library import remote
from llamacart_server.library.library import CartridgeLibrary
from llamacart_server.library.source import Folder, folder_of, open_source

MOST = 2**20


@pytest.fixture
def store():
    """A store in memory, empty."""
    fs = fsspec.filesystem("memory")
    yield fs
    fs.rm("/bucket", recursive=True)


@pytest.fixture
def put(store, tmp_path, cartridge_named):
    def put(name, file=None):
        path = tmp_path / "made.gguf"
        write_cartridge(cartridge_named(name), path)
        store.pipe(f"/bucket/{file or name}.gguf", path.read_bytes())

    put("french")
    return put


@pytest.fixture
def fetched(monkeypatch):
    """Names of what is fetched from now on."""
    names = []
    get = fsspec.get_filesystem_class("memory").get_file

    def get_file(self, source, target, **options):
        names.append(source.rpartition("/")[2])
        return get(self, source, target, **options)

    monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "get_file", get_file)
    return names


def opened(cache, url="memory://bucket"):
    return open_source(url, cache, MOST)


def paths(source):
    return {name: source.path(name, stamp) for name, stamp in source.look().items()}


@pytest.mark.parametrize(
    ("spec", "is_folder"),
    [
        ("demo", True),
        ("C:\\cartridges", True),
        ("/srv/a:b", True),
        ("s3://bucket/folder", False),
        ("file:///srv", False),
        ("hf:owner/repo", False),
        ("zip://x::s3://bucket/a.zip", False),
    ],
)
def test_what_names_a_folder(spec, is_folder, tmp_path):
    assert (folder_of(spec) is not None) is is_folder
    if is_folder:
        assert isinstance(open_source(spec, tmp_path, MOST), Folder)


def test_a_repository_of_the_hub_is_a_store(tmp_path, monkeypatch):
    opened_urls = []
    monkeypatch.setattr(fsspec, "url_to_fs", lambda url: opened_urls.append(url) or (None, "x"))
    for spec in ("hf:owner/repo/folder", "hf://owner/repo/folder"):
        open_source(spec, tmp_path, MOST)
    assert opened_urls == ["hf://owner/repo/folder"] * 2


def test_a_library_is_read_from_a_store(store, put, tmp_path, cartridge_named):
    put("formal")
    store.pipe("/bucket/broken.gguf", b"GGUF")
    store.pipe("/bucket/notes.txt", b"not a cartridge")
    store.pipe("/bucket/folder/inner.gguf", b"not entered")
    source = opened(tmp_path / "cache")
    library = CartridgeLibrary.from_source(source, cartridge_named("x").fingerprint)
    assert library.ids == ("formal", "french")
    (left,) = library.left_out
    assert left.file == "broken.gguf"
    assert left.reason.startswith("broken.gguf")
    assert list(library.seen) == ["broken.gguf", "formal.gguf", "french.gguf"]
    with pytest.raises(CartridgeError, match=r"memory://bucket: broken\.gguf"):
        CartridgeLibrary.from_source(source, cartridge_named("x").fingerprint, strict=True)


def test_only_what_changed_is_fetched(store, put, fetched, tmp_path):
    put("formal")
    cache = tmp_path / "cache"
    before = paths(opened(cache))
    assert sorted(fetched) == ["formal.gguf", "french.gguf"]
    assert paths(opened(cache)) == before  # also by a server that starts anew
    assert len(fetched) == 2
    put("polite", file="formal")
    after = paths(opened(cache))
    assert fetched[2:] == ["formal.gguf"]
    assert after["french.gguf"] == before["french.gguf"]
    assert read_cartridge(after["formal.gguf"]).name == "polite"
    for path in {*before.values(), *after.values()}:
        assert path.stem == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not list(cache.glob("*.tmp"))


def test_a_file_of_the_cache_that_is_damaged_is_fetched_again(put, fetched, tmp_path):
    cache = tmp_path / "cache"
    path = paths(opened(cache))["french.gguf"]
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert paths(opened(cache)) == {"french.gguf": path}
    assert path.read_bytes() == whole
    assert len(fetched) == 2


def test_a_list_that_is_damaged_costs_a_fetch(put, fetched, tmp_path):
    cache = tmp_path / "cache"
    before = paths(opened(cache))
    (list_file,) = cache.glob("*.json")
    for text in ("", "[]", '{"french.gguf": 3}', '{"french.gguf": {"stamp": "a"}}'):
        list_file.write_text(text)
        assert paths(opened(cache)) == before
    assert len(fetched) == 5
    assert json.loads(list_file.read_text()).keys() == {"french.gguf"}


def test_two_servers_share_a_cache(put, fetched, tmp_path):
    put("formal")
    cache = tmp_path / "cache"
    one, other = opened(cache), opened(cache)
    stamps = one.look(), other.look()
    one.path("french.gguf", stamps[0]["french.gguf"])
    other.path("formal.gguf", stamps[1]["formal.gguf"])
    paths(one)
    paths(other)
    assert sorted(fetched) == ["formal.gguf", "french.gguf"]


def test_what_is_too_large_is_not_fetched(store, put, fetched, tmp_path):
    store.pipe("/bucket/model.gguf", bytes(MOST + 1))
    source = opened(tmp_path)
    stamps = source.look()
    with pytest.raises(CartridgeError, match=rf"model\.gguf: has {MOST + 1} bytes"):
        source.path("model.gguf", stamps["model.gguf"])
    assert fetched == []


def test_a_fetch_that_fails_leaves_nothing(put, tmp_path, monkeypatch):
    def get_file(self, source, target, **options):
        Path(target).write_bytes(b"half")
        raise TimeoutError("no answer")

    monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "get_file", get_file)
    source = opened(tmp_path)
    with pytest.raises(CartridgeError, match=r"french\.gguf: cannot be fetched: no answer"):
        source.path("french.gguf", source.look()["french.gguf"])
    assert list(tmp_path.glob(".llamacart*")) == list(tmp_path.glob("*.json")) == []


def test_a_cache_that_cannot_be_written(put, tmp_path):
    (tmp_path / "cache").write_text("a file")
    source = opened(tmp_path / "cache")
    with pytest.raises(CartridgeError, match=r"french\.gguf: cannot be kept"):
        source.path("french.gguf", source.look()["french.gguf"])


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("memory://nowhere", "cannot be listed"),
        ("nosuch://bucket", "cannot be used: Protocol not known: nosuch"),
        ("sftp://me:secret@host/folder", "has a password"),
    ],
)
def test_stores_that_cannot_be_used(url, said, tmp_path):
    with pytest.raises(InputError, match=said) as caught:
        opened(tmp_path, url).look()
    assert "secret" not in str(caught.value)


def test_files_of_this_machine_as_a_store(tmp_path, cartridge_named):
    folder = tmp_path / "files"
    folder.mkdir()
    path = folder / "french.gguf"
    write_cartridge(cartridge_named("french"), path)
    source = opened(tmp_path / "cache", f"file://{folder}")
    first = source.look()["french.gguf"]
    write_cartridge(cartridge_named("dutch"), path)
    second = source.look()["french.gguf"]
    assert first != second
    assert read_cartridge(source.path("french.gguf", second)).name == "dutch"


@pytest.mark.parametrize(
    ("info", "changed", "differs"),
    [
        ({"ETag": "a", "LastModified": 1}, {"LastModified": 2}, False),
        ({"ETag": "a"}, {"ETag": "b"}, True),
        ({"blob_id": "a", "size": 3}, {"blob_id": "b"}, True),
        ({"mtime": 1, "size": 3}, {"size": 4}, True),
        ({"mtime": 1, "size": 3}, {"mtime": 2}, True),
    ],
)
def test_what_says_that_a_file_changed(info, changed, differs, tmp_path, monkeypatch):
    said = [info, {**info, **changed}]

    def ls(self, path, detail):
        return [{"name": "/x/a.gguf", "type": "file", **said.pop(0)}]

    monkeypatch.setattr(LocalFileSystem, "ls", ls)
    source = opened(tmp_path, "file:///x")
    assert (source.look() != source.look()) is differs


def test_a_store_that_does_not_say_is_asked_every_time(put, fetched, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "WEAK", ())
    source = opened(tmp_path)
    assert source.look() == {"french.gguf": ""}
    assert paths(source) == paths(source)
    assert len(fetched) == 2


def test_what_nobody_asks_for_leaves_the_cache(put, tmp_path):
    kept = paths(opened(tmp_path))["french.gguf"]
    now = time.time()
    ages = {"old.gguf": 31, "young.gguf": 29, "old.tmp": 2, "young.tmp": 0}
    for name, days in ages.items():
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (now, now - days * 86400))
    os.utime(kept, (0, now - 29 * 86400))
    paths(opened(tmp_path))
    assert not (tmp_path / "old.gguf").exists()
    assert not (tmp_path / "old.tmp").exists()
    assert (tmp_path / "young.gguf").exists()
    assert (tmp_path / "young.tmp").exists()
    assert kept.stat().st_mtime > now - 60  # it was asked for
