"""Text files as editors save them, and what is no text."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamacart.disk.text import read_text, read_toml
from llamacart.errors import InputError, LlamacartError, NotFoundError

BOM = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", ""),
        (BOM, ""),
        (BOM + "é\n".encode(), "é\n"),
        (b"a\r\nb\rc\n", "a\nb\nc\n"),
        ("a\u2028b".encode(), "a\u2028b"),
        ("a\ufeffb".encode(), "a\ufeffb"),  # in the middle it is a character
    ],
)
def test_what_is_text(tmp_path: Path, data: bytes, text: str) -> None:
    (tmp_path / "t").write_bytes(data)
    assert read_text(tmp_path / "t") == text


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("name".encode("utf-16"), "it is UTF-16; save it as UTF-8"),
        ("name".encode("utf-16-be"), "line 1 holds a null byte"),
        (b"\xfe\xff\0n", "it is UTF-16"),
        ("name".encode("utf-32"), "it is UTF-32"),
        (b"a\nb\0c", "line 2 holds a null byte"),
        (b"a\r\nb\r\ncaf\xe9", "line 3 is not UTF-8 .byte 0xe9.; save it as UTF-8"),
        (b"\xed\xa0\xbd", "line 1 is not UTF-8"),  # half of a character
    ],
)
def test_what_is_no_text(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "t").write_bytes(data)
    with pytest.raises(InputError, match=rf"t' cannot be read: {reason}"):
        read_text(tmp_path / "t")


def test_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a")
    for missing in (tmp_path / "absent", tmp_path / "file" / "below"):
        with pytest.raises(NotFoundError, match="does not exist"):
            read_text(missing)
    with pytest.raises(InputError, match="it is a folder"):
        read_text(tmp_path)
    with pytest.raises(InputError, match="a device"):
        read_text(Path("/dev/zero"))
    with pytest.raises(InputError, match="cannot be read"):
        read_text(tmp_path / "a\0b")
    assert read_text(Path("/dev/null")) == ""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="a pipe"):
        read_text(tmp_path / "pipe")


def test_a_shells_pipe_is_read() -> None:
    code = "import sys; from pathlib import Path; from llamacart.disk.text import read_text;"
    code += "print(read_text(Path('/dev/stdin')))"
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code], input=BOM + b"from a pipe", capture_output=True, check=True
    )
    assert done.stdout == b"from a pipe\n"


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("a")
    (tmp_path / "t").chmod(0)
    with pytest.raises(InputError, match="cannot be read: Permission denied"):
        read_text(tmp_path / "t")


def test_toml(tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    path.write_bytes(BOM + b'[a]\r\nb = "c"\r\n')
    assert read_toml(path) == {"a": {"b": "c"}}
    for text in ("a =", "a = " + 2000 * "[", f"a = {5000 * '1'}", "a = 1\na = 2"):
        path.write_text(text)
        with pytest.raises(InputError, match=r"t.toml: not TOML \("):
            read_toml(path)


@given(data=st.binary(max_size=64))
def test_any_bytes_are_text_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(data)
    refused = None
    text = ""
    try:
        text = read_text(path)
    except LlamacartError as error:
        refused = error.message
    assert refused is None or "\n" not in refused
    assert "\r" not in text
    assert not text.startswith("\ufeff") or data.startswith(BOM + BOM)
