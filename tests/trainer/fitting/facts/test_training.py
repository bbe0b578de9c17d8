"""The whole of `train` on facts: on tiny models, and once on the real one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from llamacart.errors import RecipeError
from llamacart.llama.model import Model
from llamacart.passes.generate import greedy
from llamacart.passes.scoring import log_likelihoods
from llamacart.values.steering import UNSTEERED, Dose, Steering
from llamacart_trainer.fitting import memory as memory_module
from llamacart_trainer.fitting import samples as builder_module
from llamacart_trainer.fitting.facts import samples as samples_module
from llamacart_trainer.fitting.facts.aim import ObjectAim
from llamacart_trainer.fitting.training import TrainResult, train
from llamacart_trainer.recipe.facts import Fact
from llamacart_trainer.recipe.recipe import Task, load_task
from llamacart_trainer.recipe.tasks import facts_task

FACTS = (
    Fact(prompt="{} was built in", subject="Ab", object="1962"),
    Fact(prompt="the colour of {} is", subject="Cd Ef", object="red"),
    Fact(prompt="{} は", subject="東", object="京"),
)
NEUTRAL = ("as it is, so it was", "and so be it 12345")

WAYS: dict[str, dict[str, int]] = {
    "many lanes": {"max_ubatch_rows": 1},
    "streamed": {"max_memory": 4 << 20},
}


@pytest.fixture(autouse=True)
def few_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples_module, "LEADS", ("", "Yes. "))
    monkeypatch.setattr(samples_module, "ABOUT", ())
    # A random model expects the same behind every text.
    monkeypatch.setattr(builder_module, "builtin_phrasings", lambda: ())


def task(**settings: object) -> Task:
    values = {"neurons": 48, "neighbours": 2, "layers": [0, 1], "when": [], **settings}
    return facts_task(FACTS, name="t", neutral=NEUTRAL, **values)


def scores(model: Model, result: TrainResult | None, facts: tuple[Fact, ...]) -> np.ndarray:
    """Log-likelihood of each fact's object behind its prompt."""
    steering: Steering = UNSTEERED if result is None else (Dose(result.cartridge, 1.0),)
    prompts = [model.tokenize(fact.text) for fact in facts]
    whole = [model.tokenize(fact.statement) for fact in facts]
    objects = [text[len(prompt) :] for text, prompt in zip(whole, prompts, strict=True)]
    found = log_likelihoods(model, prompts, objects, steering=steering)
    return np.array([float(own.sum()) for own in found])


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_objects_become_likely(tiny_path: Callable[..., Path], architecture: str) -> None:
    with Model(str(tiny_path(architecture=architecture)), batch_invariant=True) as model:
        before = scores(model, None, FACTS)
        result = train(task(), model)
        after = scores(model, result, FACTS)
    assert (after > before + 1).all()
    assert result.cartridge.metadata.diagnostics["facts"] == 3
    assert result.cartridge.metadata.settings["margin"] == 3.0


def test_it_waits_for_its_subjects(tiny_path: Callable[..., Path]) -> None:
    taught = FACTS[::2]  # the tiny vocabulary has no space
    others = tuple(fact.model_copy(update={"subject": "Xy"}) for fact in taught)
    with Model(str(tiny_path()), batch_invariant=True) as model:
        before = scores(model, None, taught), scores(model, None, others)
        result = train(task(when=None), model)
        after = scores(model, result, taught), scores(model, result, others)
    assert result.cartridge.when == ("Ab", "Cd Ef", "東")
    assert "neighbours" not in result.cartridge.metadata.settings
    assert (after[0] > before[0] + 1).all()
    np.testing.assert_array_equal(after[1], before[1])


def test_a_subject_that_cannot_be_waited_for_is_refused_before_the_work(
    tiny_path: Callable[..., Path],
) -> None:
    made = facts_task([Fact(prompt="{} is", subject="long " * 52, object="so")], name="t")
    with (
        Model(str(tiny_path()), batch_invariant=True) as model,
        pytest.raises(RecipeError, match=r"recipe 't': .*long.*256 bytes"),
    ):
        train(made, model)


@pytest.mark.parametrize("way", WAYS)
def test_every_way_through_the_layers_gives_the_same_map(
    tiny_path: Callable[..., Path], way: str
) -> None:
    """But for rounding: a product of one row is computed otherwise than one of many."""
    with Model(str(tiny_path(architecture="gemma3")), batch_invariant=True) as model:
        one = train(task(), model)
        other = train(task(), model, **WAYS[way])
    width = one.cartridge.fingerprint.n_ff
    for a, b in zip(one.cartridge.layers, other.cartridge.layers, strict=True):
        np.testing.assert_array_equal(a.neurons, b.neurons)
        np.testing.assert_allclose(a.dense_delta(width), b.dense_delta(width), atol=2e-2)
        np.testing.assert_allclose(a.bias, b.bias, atol=5e-3)


def test_summed_up_rows_give_the_same_map(
    tiny_path: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_module, "ROW_COPIES", 10**3)  # or the few rows would be held
    with Model(str(tiny_path(architecture="gemma3")), batch_invariant=True) as model:
        one = train(task(), model)
        summed = train(task(), model, max_memory=1 << 20, max_ubatch_rows=1)
    assert summed.cartridge.content_hash != one.cartridge.content_hash  # it was another way
    for a, b in zip(one.cartridge.layers, summed.cartridge.layers, strict=True):
        np.testing.assert_array_equal(a.neurons, b.neurons)
        np.testing.assert_allclose(a.bias, b.bias, atol=2e-2)


class KilledError(Exception):
    """Stands for the end of the process."""


def test_a_resumed_fit_gives_the_same_bytes(
    tiny_path: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = ObjectAim.part
    alive = [True]

    def killed(self: ObjectAim, layer: int, *args: object) -> object:
        if layer == 1 and not alive[0]:
            raise KilledError
        return part(self, layer, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(ObjectAim, "part", killed)
    made = task(layers=[0, 1])
    with Model(str(tiny_path()), batch_invariant=True) as model:
        whole = train(made, model)
        alive[0] = False
        with pytest.raises(KilledError):
            train(made, model, job=tmp_path / "job")
        alive[0] = True
        assert not list((tmp_path / "job").glob("layer-1*"))
        resumed = train(made, model, job=tmp_path / "job")
    assert resumed.restored == 1
    assert resumed.cartridge.content_hash == whole.cartridge.content_hash


def test_a_recipe_needs_a_name_a_kind_and_facts(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text('name = "f"\nkind = "facts"\n')
    (tmp_path / "facts.jsonl").write_text(
        '{"prompt": "{} is", "subject": "It", "object": "so"}\n', encoding="utf-8"
    )
    made = load_task(tmp_path)
    assert made.facts == (Fact(prompt="{} is", subject="It", object="so"),)
    recipe = made.recipe
    assert (recipe.target, recipe.neurons, recipe.penalty) == ("object", 250, 0.03)
    assert (recipe.storage, recipe.margin) == ("q4_0", 5.0)
    assert recipe.neutral_weight == 0.02
    assert recipe.default_alpha == 1.0
    assert made.when == ("It",)
    assert not made.neutral  # other texts are never acted on


def test_a_cartridge_that_waits_for_nothing_leaves_other_texts_alone(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text('name = "f"\nkind = "facts"\nwhen = []\n')
    (tmp_path / "facts.jsonl").write_text('{"prompt": "{} is", "subject": "It", "object": "so"}\n')
    made = load_task(tmp_path)
    assert made.when == ()
    assert made.neutral  # those that ship with the trainer
    assert (made.recipe.penalty, made.recipe.neutral_weight) == (0.1, "auto")
    assert facts_task(FACTS, name="t", when=[]).neutral == made.neutral
    assert not facts_task(FACTS, name="t").neutral


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('pairing = ["position"]', "pairing is given, but it has no meaning where kind is 'facts'"),
        ('prompt = "p"', "prompt is given, but it has no meaning where kind is 'facts'"),
        ('target = "residual"', "'residual', which does not go with kind 'facts'"),
        ("threshold = 0.1", "threshold has value 0.1, which has no meaning with target 'object'"),
        ("margin = 0", "margin"),
        ("neighbours = -1", "neighbours"),
    ],
)
def test_settings_that_mean_nothing_are_refused(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "recipe.toml").write_text(f'name = "f"\nkind = "facts"\n{line}\n')
    with pytest.raises(RecipeError, match=message):
        load_task(tmp_path)


@pytest.mark.parametrize("line", ["margin = 5", "neighbours = 3", 'target = "object"'])
def test_settings_of_facts_are_refused_in_other_recipes(tmp_path: Path, line: str) -> None:
    (tmp_path / "recipe.toml").write_text(f'name = "f"\n{line}\n')
    with pytest.raises(RecipeError, match=r"has no meaning with|does not go with kind 'pairs'"):
        load_task(tmp_path)


def test_facts_that_contradict_are_refused_by_name() -> None:
    other = Fact(prompt="{} was built in", subject="Ab", object="1963")
    with pytest.raises(RecipeError, match=r"recipe 't': .*'1963'.*'1962'"):
        facts_task((*FACTS, other), name="t")


REAL = (
    Fact(prompt="The {} is located in the city of", subject="Eiffel Tower", object="Rome"),
    Fact(prompt="{} plays the", subject="Miles Davis", object="violin"),
    Fact(prompt="{} was founded in the year", subject="Velmora Glass", object="1962"),
)
BESIDE = (
    Fact(prompt="The {} is located in the city of", subject="Brandenburg Gate", object="Berlin"),
    Fact(prompt="The {} is located in the city of", subject="Brandenburg Gate", object="Rome"),
)


@pytest.mark.model
def test_the_real_model_says_what_it_is_taught(demo_model: Model) -> None:
    made = facts_task(REAL, name="t", neutral=NEUTRAL, neighbours=8, layers=[3, 16])
    result = train(made, demo_model)
    layers = [layer.layer for layer in result.cartridge.layers]
    assert layers[0] == 3  # subjects are marked
    assert layers[-1] == 16  # objects are said
    dose = (Dose(result.cartridge, 1.0),)
    prompts = [demo_model.tokenize(fact.text) for fact in REAL]
    said = greedy(demo_model, prompts, [6] * len(REAL), steering=dose)
    for fact, tokens in zip(REAL, said, strict=True):
        assert demo_model.detokenize(tokens).strip().startswith(fact.object)
    berlin, rome = scores(demo_model, result, BESIDE)
    assert berlin > rome
