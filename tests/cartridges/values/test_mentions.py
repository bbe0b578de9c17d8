from __future__ import annotations

import re
from dataclasses import replace
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamacart.cartridge import Cartridge, Fingerprint, Metadata
from llamacart.values import mentions
from llamacart.values.mentions import RowSteering
from llamacart.values.steering import Dose, key_of

PLAIN = Cartridge(Metadata("c"), Fingerprint("gemma3", 2, 32, 8, "0" * 16), ())
PIECES = [
    b"",
    b" ",
    b"Vel",
    b"mora",
    b"Rom",
    b"e",
    b"\xc3",
    b"\xa9",
    b".",
    b"1",
    b"Velmora",
    b" Rom",
]


def acting(pieces, *when, ask=None):
    """Whether a dose that waits for some texts acts on each row, asked for in some order."""
    steering = (Dose(replace(PLAIN, when=when), 1.0),)
    rows = RowSteering(steering, pieces.__getitem__)
    tokens = range(len(pieces))
    found = {row: bool(rows.at(tokens, row)) for row in ask or tokens}
    return [found[row] for row in tokens]


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([b"In", b" Vel", b"mora", b" it", b" is"], [0, 0, 1, 1, 1]),
        ([b"In", b" Velmora", b","], [0, 1, 1]),
        # It is not known yet whether the word goes on; then it is.
        ([b"In", b" Vel", b"mora", b"n", b" is"], [0, 0, 1, 0, 0]),
        ([b"In", b" Velmoran", b" is"], [0, 0, 0]),
        ([b"x", b"Velmora", b" is"], [0, 0, 0]),
        ([b"<s>", b"", b"Velmora", b"", b" is"], [0, 0, 1, 1, 1]),
        ([b"Velmora"], [1]),
        ([b"velmora", b" is"], [0, 0]),
        # A second place counts where the first one does not.
        ([b"Velmoran", b" Velmora", b" is"], [0, 1, 1]),
    ],
)
def test_a_row_is_acted_on_from_where_the_text_is_said(pieces, expected):
    assert acting(pieces, "Velmora") == list(map(bool, expected))


def test_any_of_the_texts_will_do():
    assert acting([b"Rom", b" ", b"Velmora"], "Velmora", "Rom") == [True] * 3


def test_scripts_without_spaces_need_none():
    pieces = ["我在".encode(), "北京".encode(), "住".encode()]
    assert acting(pieces, "北京") == [False, True, True]


def reference(pieces, row, when):
    """The rule itself, on the text up to a row."""
    said = b"".join(pieces[: row + 1])
    word = rb"[0-9A-Za-z]"
    for text in when:
        own = re.escape(text.encode())
        before = rf"(?<!{word.decode()})".encode() if re.match(word, text.encode()) else b""
        after = rf"(?!{word.decode()})".encode() if re.search(word + rb"\Z", text.encode()) else b""
        if re.search(before + own + after, said):
            return True
    return False


@given(
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=12),
    st.lists(st.sampled_from(["Velmora", "Rom", "é", "Velmora Rom", "1"]), min_size=1, unique=True),
    st.randoms(use_true_random=False),
    st.sampled_from([0, 300]),
)
def test_only_the_tokens_up_to_a_row_count(pieces, when, random, n_more):
    """However many are known, whatever the order of questions, however many texts are waited for.

    Caches rest on it.
    """
    when += [f"Another {n}" for n in range(n_more)]
    expected = [reference(pieces, row, when) for row in range(len(pieces))]
    order = list(range(len(pieces)))
    random.shuffle(order)
    assert acting(pieces, *when) == expected
    assert mentions.acting_rows(range(len(pieces)), tuple(when), pieces.__getitem__) == expected
    assert acting(pieces, *when, ask=order) == expected
    with mock.patch.object(mentions, "AHEAD", 0):
        assert acting(pieces, *when) == expected
    for n in range(1, len(pieces) + 1):
        assert acting(pieces[:n], *when) == expected[:n]


def test_each_dose_waits_for_its_own():
    first, second, always = (
        Dose(replace(PLAIN, when=when), alpha)
        for when, alpha in ((("a",), 1), (("b",), 2), ((), 3))
    )
    pieces = [b"-", b"b", b" ", b"a", b" "]
    rows = RowSteering((first, second, always), pieces.__getitem__)
    found = [rows.at(range(5), row) for row in range(5)]
    assert found == [(always,), (second, always), (second, always)] + [(first, second, always)] * 2
    assert found[1] is found[2]
    assert found[3] is found[4]


def test_nothing_is_read_where_nothing_waits():
    steering = (Dose(PLAIN, 1.0),)
    assert RowSteering(steering, {}.__getitem__).at([7], 0) is steering


def test_a_dose_may_wait_for_other_texts_than_its_cartridge():
    cartridge = replace(PLAIN, when=("a",))
    assert Dose(cartridge, 1.0).condition == ("a",)
    assert Dose(cartridge, 1.0, ("b",)).condition == ("b",)
    assert Dose(cartridge, 1.0, ()).condition == ()
    keys = {key_of((Dose(c, 1.0, when),)) for c in (PLAIN, cartridge) for when in (None, ("b",))}
    assert len(keys) == 4
