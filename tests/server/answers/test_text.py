import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamacart_server.answers.text import TextStream, held_back

LETTERS = st.text("abé😀", max_size=30)
STOPS = st.lists(st.text("abé😀", min_size=1, max_size=4), max_size=4)


def cut(text: str, stops: list[str]) -> str:
    """The definition: read on letter by letter until the text ends with a stop string."""
    for end in range(1, len(text) + 1):
        met = [len(s) for s in stops if text[:end].endswith(s)]
        if met:
            return text[: end - max(met)]
    return text


def run(pieces: list[bytes], stops: list[str]) -> tuple[list[str], bool]:
    stream = TextStream(stops)
    out = [stream.push(piece) for piece in pieces]
    return [*out, stream.finish()], stream.stopped


@given(LETTERS, STOPS, st.lists(st.integers(0, 120), max_size=12))
def test_any_chunking_cuts_at_the_first_stop(text, stops, cuts):
    raw = text.encode()
    edges = sorted({0, len(raw), *(c for c in cuts if c < len(raw))})
    pieces = [raw[a:b] for a, b in itertools.pairwise(edges)]
    out, stopped = run(pieces, stops)
    assert "".join(out) == cut(text, stops)
    assert stopped == any(stop in text for stop in stops)


@given(LETTERS, STOPS)
def test_nothing_sent_is_ever_taken_back(text, stops):
    out, _ = run([bytes([b]) for b in text.encode()], stops)
    sent = ""
    for piece in out:
        sent += piece
        assert cut(text, stops).startswith(sent)


@given(st.binary(max_size=40), st.integers(0, 40))
def test_bytes_that_are_no_utf8_become_replacement_characters(raw, at):
    out, _ = run([raw[:at], raw[at:]], [])
    assert "".join(out) == raw.decode("utf-8", "replace")


@given(LETTERS, STOPS)
def test_holds_back_the_longest_beginning_of_a_stop(text, stops):
    n = held_back(text, stops)
    lengths = [
        k for k in range(1, len(text) + 1) for s in stops if k < len(s) and text.endswith(s[:k])
    ]
    assert n == max(lengths, default=0)


def test_text_is_released_as_soon_as_it_cannot_become_a_stop():
    stream = TextStream(["END"])
    assert stream.push(b"a E") == "a "
    assert stream.push(b"N") == ""
    assert stream.push(b"x") == "ENx"
    assert stream.push(b"E") == ""
    assert stream.finish() == "E"
    assert not stream.stopped


def test_nothing_follows_a_stop():
    stream = TextStream(["\n"])
    assert stream.push(b"a\nb") == "a"
    assert stream.push(b"c") == ""
    assert stream.finish() == ""


def test_characters_wait_for_their_last_byte():
    stream = TextStream()
    assert [stream.push(bytes([b])) for b in "é!".encode()] == ["", "é", "!"]


@pytest.mark.parametrize(("stops", "text"), [(["abc", "b"], "a"), (["b", "ab"], "")])
def test_of_stops_that_end_together_the_longest_wins(stops, text):
    assert "".join(run([b"abc"], stops)[0]) == text
