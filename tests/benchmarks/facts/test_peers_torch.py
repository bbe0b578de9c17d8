"""Peers that compute gradients, on a random model; only where the extra `peers` is installed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from peers_texts import Said

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("default")

WAYS = [
    [Said((2, 5, 6, 7, 8, 30), 5, 2), Said((2, 9, 9, 5, 6, 7, 8, 30), 7, 4)],
    [Said((2, 11, 12, 7, 40, 41), 4, 2), Said((2, 9, 9, 11, 12, 7, 40, 41), 6, 4)],
]
ESSENCES = [Said((2, 5, 6, 13, 14), 5, 2), Said((2, 11, 12, 13, 14), 5, 2)]


@pytest.fixture
def module() -> Any:
    torch.manual_seed(0)
    config = transformers.Gemma3TextConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        layer_types=["sliding_attention", "full_attention"] * 2,
    )
    made = transformers.Gemma3ForCausalLM(config).eval()
    for parameter in made.parameters():
        parameter.data.normal_(0.0, 0.2)
    return made.requires_grad_(requires_grad=False)


def state(module: Any) -> dict[str, Any]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_same(module: Any, before: dict[str, Any]) -> None:
    after = module.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())


def loss(module: Any) -> float:
    from peers_model import mean_loss, padded, run

    texts = [way[0] for way in WAYS]
    with torch.no_grad():
        ids = padded([text.tokens for text in texts])
        hidden = run(module.model, module.model.embed_tokens(ids), range(4))
        return float(mean_loss(module, texts, hidden))


def apply(module: Any, steps: dict[str, Any], matrix: str) -> None:
    for name, step in steps.items():
        layer = module.model.layers[int(name.split(".")[1])]
        part = layer.mlp if hasattr(layer.mlp, matrix) else layer.self_attn
        getattr(part, matrix).weight += torch.as_tensor(np.asarray(step, np.float32))


def test_layers_run_one_by_one_are_the_models_own(module: Any) -> None:
    from peers_model import log_odds, mean_loss, padded, run

    texts = [way[1] for way in WAYS]
    ids = padded([text.tokens for text in texts])
    hidden = run(module.model, module.model.embed_tokens(ids), range(4))
    own = module(input_ids=ids).logits.log_softmax(-1)
    torch.testing.assert_close(log_odds(module, hidden), own)
    wanted = -(own[0, 6, 30] + (own[1, 5, 40] + own[1, 6, 41]) / 2) / 2
    torch.testing.assert_close(mean_loss(module, texts, hidden), wanted)


@pytest.mark.parametrize(("matrix", "named"), [("q_proj", "attn_q"), ("down_proj", "ffn_down")])
def test_a_lora_learns_and_leaves_the_model(module: Any, matrix: str, named: str) -> None:
    from peers_lora import LoraSettings, fit_lora

    before, plain = state(module), loss(module)
    settings = LoraSettings(rank=2, matrices=matrix, rate=0.02, steps=40)
    found = fit_lora(module, [way[:1] for way in WAYS], settings)
    assert_same(module, before)
    assert list(found.steps) == [f"blk.{n}.{named}.weight" for n in range(4)]
    assert all(np.linalg.matrix_rank(step) <= 2 for step in found.steps.values())
    assert found.size == 2 * sum(2 * sum(step.shape) for step in found.steps.values())
    apply(module, found.steps, matrix)
    assert loss(module) < plain - 0.2
    assert loss(module) == pytest.approx(found.losses[-1], abs=0.1)


def test_a_lora_that_keeps_other_texts_changes_them_less(module: Any) -> None:
    from peers_lora import LoraSettings, fit_lora, last_odds

    others = [[2, 20 + n, 21] for n in range(6)]
    plain, apart = last_odds(module, others), []
    before = state(module)
    for keep in (0.0, 3.0):
        settings = LoraSettings(rank=2, matrices="down_proj", rate=0.02, steps=30, keep=keep)
        apply(module, fit_lora(module, WAYS, settings, others).steps, "down_proj")
        now = last_odds(module, others)
        apart.append(float((plain.exp() * (plain - now)).sum()))
        module.load_state_dict(before)
    assert apart[1] < apart[0] / 2


@pytest.mark.parametrize("null", [0.0, 0.5])
def test_facts_are_written_into_weights_and_the_model_is_left(module: Any, null: float) -> None:
    from peers_memit import MemitSettings, edit, find_steps, moments

    settings = MemitSettings(last=2, layers=2, weight=1e-3, null=null, steps=60, ridge=1e-6)
    before, plain = state(module), loss(module)
    texts = np.random.default_rng(0).integers(2, 64, (40, 5)).tolist()
    others = moments(module, texts, range(1, 3))
    wanted = find_steps(module, WAYS, ESSENCES, settings)
    assert wanted.losses[-1] < wanted.losses[0]
    updates = edit(module, WAYS, wanted, others, settings)
    assert_same(module, before)
    assert list(updates) == ["blk.1.ffn_down.weight", "blk.2.ffn_down.weight"]
    assert all(np.linalg.matrix_rank(step, rtol=1e-6) <= 2 for step in updates.values())
    apply(module, updates, "down_proj")
    assert loss(module) < plain


def test_moments_are_means_over_all_tokens(module: Any) -> None:
    from peers_memit import inputs_of, moments

    texts = [[2, 20, 21, 22], [2, 23]]
    found = moments(module, texts, range(3))
    rows = [inputs_of(module, torch.tensor([text]), range(3))[0] for text in texts]
    for layer, moment in found.items():
        keys = torch.cat([row[layer][0] for row in rows]).double().numpy()
        np.testing.assert_allclose(moment, keys.T @ keys / 6, rtol=1e-4, atol=1e-5)


def test_search_settings_do_not_depend_on_what_is_written() -> None:
    from peers_memit import MemitSettings

    one, other = MemitSettings(last=5, layers=3, weight=7.0), MemitSettings(last=5, null=0.4)
    assert one.of_steps == other.of_steps != MemitSettings(last=6).of_steps
