"""Where texts of every script may be cut, and which phrases stand in them whole."""

from __future__ import annotations

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from llamacart_trainer.recipe.pairing import cut, handover
from llamacart_trainer.recipe.words import any_of, beginning, pieces

SCRIPTS = "aé 'l-.!?天気がコーヒー，。「」ฉันชอบดื่มកាស្រុကြབོད་عيىन्दी한국\u0301\u200d👩🇫🇷\u00a0\u3000\n"
texts = st.one_of(st.text(), st.text(st.sampled_from(SCRIPTS), max_size=40))


@pytest.mark.parametrize(
    "wanted",
    [
        [""],
        ["word"],
        ["C'est", " peut-être", " l'homme,", " aujourd'hui\u00a0!"],
        ["  Two", "  spaces\t"],
        ["one", "\u2009!", "\nline"],
        ["أحب", " شرب", " القهوة"],
        ["날씨가", " 좋다."],
        ["他", "说", "「你", "好」，", "用", "Python", "写", "了", "3", "个。"],
        ["東", "京", "タワー", "は", "コーヒー。"],
        ["ฉั", "น", "แฟ", "ที่", " ใช่", "ๆ"],
        ["བོད་", "ཡིག"],
        ["葛\U000e0100", "城"],
        ["မ", "န္တ", "လေး"],
    ],
)
def test_pieces(wanted: list[str]) -> None:
    assert pieces("".join(wanted)) == wanted


@given(texts)
def test_pieces_make_the_text_and_cut_no_character(text: str) -> None:
    found = pieces(text)
    assert "".join(found) == text
    assert all(found) or found == [""]
    cuts = {len("".join(found[:n])) for n in range(len(found) + 1)}
    assert cuts <= {0, len(text), *(m.start() for m in regex.finditer(r"\X", text))}


@given(st.lists(st.text("abcé'-.,!?", min_size=1), min_size=1))
def test_a_script_with_spaces_is_cut_at_spaces_alone(words: list[str]) -> None:
    assert pieces(" ".join(words)) == [words[0], *(f" {word}" for word in words[1:])]


def test_beginning() -> None:
    assert beginning("a b c d e f g h i j", 0.35, 3) == "a b c d"
    assert beginning("a b c d", 0.35, 3) == "a b c"
    assert beginning("爷爷每天早上在公园里打太极拳。", 0.35, 3) == "爷爷每天早"


def merging(text: str, *, add_special: bool = True) -> list[int]:
    """A tokeniser of single characters, with a token of its own for `天气` and `公园`."""
    found = regex.findall("天气|公园|.", text, regex.DOTALL)
    return [1] * add_special + [sum(map(ord, token)) for token in found]


def test_a_token_is_not_cut() -> None:
    assert cut(merging, "今天气天气好", 0.35) == ("今", "天气天气好")
    assert cut(merging, "天气好吗今年冷", 0.15) == ("天气", "好吗今年冷")
    assert cut(merging, "天气", 0.5) == ("天", "气")  # there is no better place
    assert cut(merging, "a b c", 0.35) == ("a", " b c")
    assert cut(merging, "a", 0.35) == ("a", "")


@given(st.text(st.sampled_from("天气公园好ab "), min_size=1), st.sampled_from([0, 1]))
def test_what_is_tied_behind_the_cut_is_the_same(target: str, number: int) -> None:
    paired = handover(merging, "so much for that", target, number)
    behind = paired.rows[3:]
    assert [i for i, _ in behind] == list(
        range(len(paired.source) - len(behind), len(paired.source))
    )
    assert all(paired.source[i] == paired.target[j] for i, j in behind)
    assert sum(paired.target) == sum(merging(target))  # whatever the cut, the same characters


def test_a_text_without_spaces_gives_as_many_rows_as_one_with() -> None:
    for number in (0, 1):
        rows = handover(merging, "a b c d e f", "我们在家里包饺子看电影", number).rows
        assert len(set(rows)) >= 5


@pytest.mark.parametrize(
    ("phrase", "text", "found"),
    [
        ("cat", "concatenate", False),
        ("CAT", "my cat.", True),
        ("homme", "l'homme", True),
        ("你好", "他说你好吗", True),
        ("Python", "我用Python写", True),
        ("パン", "フライパン", False),
        ("!", "Arr!", True),
        ("a.c", "abc", False),
        ("[x]", "a[X]b", True),
    ],
)
def test_phrases_are_whole(phrase: str, text: str, found: bool) -> None:
    pattern = any_of(["absent", phrase])
    assert pattern is not None
    assert (pattern.search(text) is not None) is found
    assert any_of([]) is None
