import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamacart.errors import AlphaError, InputError, NotFoundError
from llamacart_server.library.selection import Choice, SteeringFields, select

NAMES = ("fake-1b", "demo", "hf:owner/repo/file.gguf")
NOTHING = SteeringFields()


@pytest.fixture
def resolve(library):
    def call(model="fake-1b", *choices, listed=False, **fields):
        items = tuple(choices) if choices or listed else None
        selection = select(model, SteeringFields(items, **fields), NAMES, library)
        doses = [(p.dose.cartridge.name, p.dose.alpha, p.apply_to) for p in selection.doses]
        return selection.model_id, doses

    return call


def item(i, *args):
    return Choice(*args, param=f"cartridges[{i}]")


@pytest.mark.parametrize("model", NAMES)
def test_base_alone_is_unsteered(resolve, model):
    assert resolve(model) == ("fake-1b", [])


@pytest.mark.parametrize(
    ("model", "full", "doses"),
    [
        ("demo:french", "fake-1b:french", [("french", 0.8, "all")]),
        ("fake-1b:french@0.6", "fake-1b:french@0.6", [("french", 0.6, "all")]),
        ("fake-1b:french@0.80", "fake-1b:french", [("french", 0.8, "all")]),
        ("fake-1b:french@-2", "fake-1b:french@-2", [("french", -2.0, "all")]),
        ("fake-1b:french@1e-5", "fake-1b:french@1e-05", [("french", 1e-5, "all")]),
        (
            "fake-1b:french@0.5+formal",
            "fake-1b:french@0.5+formal",
            [("french", 0.5, "all"), ("formal", 1.0, "all")],
        ),
        ("hf:owner/repo/file.gguf:french", "fake-1b:french", [("french", 0.8, "all")]),
    ],
)
def test_model_ids(resolve, model, full, doses):
    assert resolve(model) == (full, doses)
    assert resolve(full) == (full, doses)


def test_body_fields(resolve):
    assert resolve(cartridge="french") == ("fake-1b:french", [("french", 0.8, "all")])
    assert resolve(cartridge="french", alpha=2)[1] == [("french", 2, "all")]
    listed = resolve("fake-1b", item(0, "french", 0.5, "prompt"), item(1, "formal"))
    assert listed == (
        "fake-1b:french@0.5+formal",
        [("french", 0.5, "prompt"), ("formal", 1.0, "all")],
    )
    assert resolve("fake-1b", listed=True) == ("fake-1b", [])


def test_agreement_is_fine_and_gaps_are_filled(resolve):
    french = [("french", 0.5, "all")]
    assert resolve("fake-1b:french@0.5", cartridge="french", alpha=0.5)[1] == french
    assert resolve("fake-1b:french@0.5", cartridge="french")[1] == french
    assert resolve("fake-1b:french", cartridge="french", alpha=0.5)[1] == french
    assert resolve("fake-1b:french", alpha=0.5)[1] == french
    assert resolve("fake-1b:french@0.5", alpha=0.5)[1] == french
    both = resolve("fake-1b:french@0.5+formal", item(0, "formal"), item(1, "french", 0.5, "prompt"))
    assert both[1] == [("french", 0.5, "prompt"), ("formal", 1.0, "all")]


@pytest.mark.parametrize(
    ("when", "found"), [(None, None), ((), ()), (("travel", "a hotel"), ("travel", "a hotel"))]
)
@pytest.mark.parametrize("model", ["fake-1b", "fake-1b:french"])
def test_a_request_says_what_a_cartridge_waits_for(library, model, when, found):
    choice = Choice("french", param="cartridges[0]", when=when)
    (placed,) = select(model, SteeringFields((choice,)), NAMES, library).doses
    assert placed.dose.when == found


@pytest.mark.parametrize(
    ("when", "message"),
    [
        (("a", "a"), "'cartridges[0].when' names 'a'; each text once"),
        (("",), "'cartridges[0].when' names ''; text without spaces around"),
        (("x" * 257,), "at most 256 bytes"),
        (tuple(map(str, range(65))), "'cartridges[0].when' names 65 texts; at most 64"),
    ],
)
def test_what_cannot_be_waited_for(library, when, message):
    choice = Choice("french", param="cartridges[0]", when=when)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        select("fake-1b", SteeringFields((choice,)), NAMES, library)
    assert caught.value.param == "cartridges[0].when"
    assert "[when]" not in caught.value.message


@pytest.mark.parametrize(
    ("model", "choices", "fields", "param"),
    [
        ("fake-1b:french", (), {"cartridge": "formal"}, "cartridge"),
        ("fake-1b:french", (item(0, "formal"),), {}, "cartridges"),
        ("fake-1b:french", (item(0, "french"), item(1, "formal")), {}, "cartridges"),
        ("fake-1b:french@0.5", (), {"alpha": 0.6}, "alpha"),
        ("fake-1b:french@0.5", (item(0, "french", 0.6),), {}, "cartridges[0]"),
    ],
)
def test_contradictions_name_both(resolve, model, choices, fields, param):
    with pytest.raises(InputError, match="contradicts") as caught:
        resolve(model, *choices, **fields)
    assert caught.value.param == param
    assert repr(model) in caught.value.message
    assert param in caught.value.message


def test_empty_list_contradicts_a_steered_model_id(resolve):
    with pytest.raises(InputError, match="'cartridges' names none, which contradicts model"):
        resolve("fake-1b:french", listed=True)


@pytest.mark.parametrize(
    ("model", "choices", "fields", "param"),
    [
        ("fake-1b", (), {"alpha": 0.5}, "alpha"),
        ("fake-1b:french+formal", (), {"alpha": 0.5}, "alpha"),
        ("fake-1b", (item(0, "french"),), {"alpha": 0.5}, "alpha"),
        ("fake-1b", (item(0, "french"),), {"cartridge": "french"}, "cartridge"),
        ("fake-1b:french+french", (), {}, "model"),
        ("fake-1b", (item(0, "french"), item(1, "french", 0.1)), {}, "cartridges[1]"),
        ("fake-1b:", (), {}, "model"),
        ("fake-1b:french+", (), {}, "model"),
        ("fake-1b:@0.5", (), {}, "model"),
    ],
)
def test_requests_that_make_no_sense(resolve, model, choices, fields, param):
    with pytest.raises(InputError) as caught:
        resolve(model, *choices, **fields)
    assert caught.value.param == param
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("model", "choices", "fields", "param"),
    [
        ("fake-1b:french@x", (), {}, "model"),
        ("fake-1b:french@", (), {}, "model"),
        ("fake-1b:french@nan", (), {}, "model"),
        ("fake-1b:french@11", (), {}, "model"),
        ("fake-1b", (), {"cartridge": "french", "alpha": float("inf")}, "alpha"),
        ("fake-1b", (), {"cartridge": "french", "alpha": -10.5}, "alpha"),
        ("fake-1b", (item(0, "formal"), item(1, "french", 99.0)), {}, "cartridges[1].alpha"),
    ],
)
def test_bad_alphas(resolve, model, choices, fields, param):
    with pytest.raises(AlphaError) as caught:
        resolve(model, *choices, **fields)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("model", "choices", "fields", "param"),
    [
        ("fake-1b:dutch", (), {}, "model"),
        ("fake-1b", (), {"cartridge": "dutch"}, "cartridge"),
        ("fake-1b", (), {"cartridge": ""}, "cartridge"),
        ("fake-1b", (item(0, "dutch"),), {}, "cartridges[0]"),
    ],
)
def test_unknown_cartridges_list_what_there_is(resolve, model, choices, fields, param):
    with pytest.raises(NotFoundError, match="'formal', 'french'") as caught:
        resolve(model, *choices, **fields)
    assert caught.value.param == param


@pytest.mark.parametrize("model", ["", "gpt-4", "fake", "fake-1b2", "french", "hf"])
def test_unknown_models(resolve, model):
    with pytest.raises(NotFoundError, match="has 'fake-1b', and 'fake-1b:NAME' with"):
        resolve(model)


def test_alpha_zero_is_kept_but_does_not_act(library):
    selection = select("demo:french@0+formal", NOTHING, NAMES, library)
    assert selection.model_id == "fake-1b:french@0+formal"
    assert [p.dose.cartridge.name for p in selection.acting] == ["formal"]


@given(alpha=st.floats(-10, 10))
def test_full_ids_read_back(library, alpha):
    fields = SteeringFields(cartridge="french", alpha=alpha)
    selection = select("fake-1b", fields, NAMES, library)
    again = select(selection.model_id, NOTHING, NAMES, library)
    assert again == selection
