"""MEMIT and AlphaEdit on a model whose FFNs are normalised behind.

For each fact a step of the residual stream at the subject's last token, at layer L, is found by
gradient, so that the object follows. Then layer by layer up to L, the down projection is changed in
closed form, so that it makes an equal part of what is still missing.

Two things differ from the papers, since Gemma normalises an FFN's output and has a few residual
dimensions that are a hundred times as large as others. A residual is brought back through the norm
(`through_norm`). And steps, their clamp and their decay are measured by dimension, in standard
deviations over the facts' subjects.

Sources: Meng et al. (2023), "Mass-editing memory in a transformer"; Fang et al. (2025), "AlphaEdit:
null-space constrained knowledge editing for language models"; Meng et al. (2022), "Locating and
editing factual associations in GPT", for the loss of a step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from peers_closed_form import alphaedit_update, memit_update, null_projection, through_norm
from peers_model import log_odds, mean_loss, padded, run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from peers_texts import Said

    Array = NDArray[np.float64]


@dataclass(frozen=True)
class MemitSettings:
    """How facts are written into weights.

    Attributes:
        last: L, the layer at which steps are found.
        layers: How many layers up to L are changed.
        weight: Of other texts' keys (MEMIT).
        null: Share of the directions of keys that are left to facts; see `null_projection`. 0 for
            MEMIT.
        ridge: Of AlphaEdit; see `alphaedit_update`.
        sentences: How many sentences stand before statements, one at a time, as steps are found.
        steps: Of Adam, at most.
        enough: The objects' mean loss that ends them, nats a token; the papers' value.
        rate: Its learning rate, in standard deviations.
        clamp: Longest step of the residual stream, root mean square in standard deviations.
        decay: Weight of the step's length in the loss.
        essence: Weight of the KL behind "… is a".
    """

    last: int = 6
    layers: int = 6
    weight: float = 5000.0
    null: float = 0.0
    ridge: float = 0.01
    sentences: int = 2
    steps: int = 20
    enough: float = 0.05
    rate: float = 0.3
    clamp: float = 3.0
    decay: float = 0.01
    essence: float = 0.0625

    @property
    def of_steps(self) -> MemitSettings:
        """The settings that `find_steps` goes by, all others as by default."""
        plain = MemitSettings()
        own = ("layers", "weight", "null", "ridge")
        return replace(self, **{name: getattr(plain, name) for name in own})


@dataclass(frozen=True)
class Wanted:
    """Where the residual stream is to be at each fact's subject.

    Attributes:
        last: Behind which layer.
        hidden: The residual stream [n, m].
        losses: The objects' mean loss after each step of the search, nats a token.
    """

    last: int
    hidden: torch.Tensor
    losses: list[float]


def find_steps(
    module: Any,
    ways: Sequence[Sequence[Said]],
    essences: Sequence[Said],
    settings: MemitSettings,
) -> Wanted:
    """For each fact the residual stream from which the object follows.

    Args:
        module: The model.
        ways: For each fact its statement alone, then behind sentences.
        essences: For each fact what is to stay.
        settings: See there.
    """
    body, facts = module.model, torch.arange(len(ways))
    above = range(settings.last + 1, body.config.num_hidden_layers)
    columns = [*zip(*ways, strict=True), tuple(essences)]
    with torch.no_grad():
        below = [_below(body, texts, settings.last) for texts in columns]
        start = below[0][facts, _ends(columns[0])]
        scale = start.std(dim=0)
        last_rows = torch.tensor([len(text.tokens) - 1 for text in essences])
        kept = log_odds(module, run(body, below[-1], above)[facts, last_rows])

    def moved(number: int) -> torch.Tensor:
        at = facts, _ends(columns[number])
        return run(body, below[number].index_put(at, step * scale, accumulate=True), above)

    step = torch.zeros_like(start).requires_grad_()
    optimizer = torch.optim.Adam([step], lr=settings.rate)
    losses: list[float] = []
    for _ in range(settings.steps):
        optimizer.zero_grad()
        missing = 0.0
        for column, texts in enumerate(columns[:-1]):
            own = mean_loss(module, texts, moved(column)) / (len(columns) - 1)
            (own * len(ways)).backward()
            missing += float(own.detach())
        now = log_odds(module, moved(-1)[facts, last_rows])
        apart = (kept.exp() * (kept - now)).sum()
        long = step.square().mean(dim=1).sum()
        (settings.essence * apart + settings.decay * long).backward()
        optimizer.step()
        with torch.no_grad():
            size = step.square().mean(dim=1, keepdim=True).sqrt()
            step *= (settings.clamp / size).clamp(max=1.0)
        losses.append(missing)
        if missing < settings.enough:
            break
    return Wanted(settings.last, start + (step * scale).detach(), losses)


def moments(module: Any, texts: Sequence[Sequence[int]], layers: range) -> dict[int, Array]:
    """E[k kᵀ] [d, d] over all tokens of texts, by layer.

    The first token counts as all others do: every text has it, and much hangs on it, since
    attention rests there.
    """
    sums: dict[int, Any] = dict.fromkeys(layers, 0.0)
    total = 0
    for start in range(0, len(texts), 32):
        part = sorted(texts, key=len)[start : start + 32]
        keys, _ = inputs_of(module, padded(part), layers)
        real = torch.arange(max(map(len, part))) < torch.tensor([[len(t)] for t in part])
        total += int(real.sum())
        for number in layers:
            own = keys[number][real].double()
            sums[number] = sums[number] + own.T @ own
    return {number: (found / total).numpy() for number, found in sums.items()}


def inputs_of(
    module: Any, ids: torch.Tensor, layers: range
) -> tuple[dict[int, torch.Tensor], dict[int, torch.Tensor]]:
    """Inputs [B, T, d] and outputs [B, T, m] of down projections, by layer."""
    keys, outputs, handles = {}, {}, []
    for number in layers:

        def keep(_module: Any, given: Any, out: torch.Tensor, number: int = number) -> None:
            keys[number], outputs[number] = given[0], out

        handles.append(module.model.layers[number].mlp.down_proj.register_forward_hook(keep))
    try:
        with torch.no_grad():
            run(module.model, module.model.embed_tokens(ids), range(layers[-1] + 1))
    finally:
        for handle in handles:
            handle.remove()
    return keys, outputs


def edit(
    module: Any,
    ways: Sequence[Sequence[Said]],
    wanted: Wanted,
    others: dict[int, Array],
    settings: MemitSettings,
) -> dict[str, Array]:
    """Updates [m, d] of the down projections, by their names in a GGUF.

    Args:
        module: The model; afterwards it is as it was.
        ways: As in `find_steps`.
        wanted: What that has found.
        others: From `moments`.
        settings: See there; `last` is that of `wanted`.
    """
    body, facts = module.model, torch.arange(len(ways))
    columns = list(zip(*ways, strict=True))
    updates: dict[str, Array] = {}
    changed = range(wanted.last - settings.layers + 1, wanted.last + 1)
    before = {n: body.layers[n].mlp.down_proj.weight.clone() for n in changed}
    with torch.no_grad():
        for number in changed:
            now = _below(body, columns[0], wanted.last)[facts, _ends(columns[0])]
            part = ((wanted.hidden - now) / (wanted.last - number + 1)).double().numpy()
            at = [_at_subject(module, texts, number) for texts in columns]
            mean, said = np.mean([keys for keys, _ in at], axis=0), at[0][1]
            gain = (1.0 + body.layers[number].post_feedforward_layernorm.weight).double().numpy()
            residuals = np.stack([_asked(y, p, gain) for y, p in zip(said, part, strict=True)])
            step = _update(mean.T, residuals.T, others[number], settings)
            updates[f"blk.{number}.ffn_down.weight"] = step
            body.layers[number].mlp.down_proj.weight += torch.from_numpy(step).float()
        for number, weight in before.items():
            body.layers[number].mlp.down_proj.weight.copy_(weight)
    return updates


def _ends(texts: Sequence[Said]) -> torch.Tensor:
    return torch.tensor([text.subject_end for text in texts])


def _below(body: Any, texts: Sequence[Said], last: int) -> torch.Tensor:
    """The residual stream [B, T, m] behind layer `last`."""
    ids = padded([text.tokens for text in texts])
    return run(body, body.embed_tokens(ids), range(last + 1))


def _at_subject(module: Any, texts: Sequence[Said], layer: int) -> tuple[Array, Array]:
    """Input [B, d] and output [B, m] of a down projection at each subject's last token."""
    ids = padded([text.tokens for text in texts])
    keys, outputs = inputs_of(module, ids, range(layer, layer + 1))
    at = torch.arange(len(texts)), _ends(texts)
    return keys[layer][at].double().numpy(), outputs[layer][at].double().numpy()


def _asked(output: Array, part: Array, gain: Array) -> Array:
    """The step of an FFN's output [m] that adds `part` to the residual stream behind the norm."""
    size = np.sqrt(np.mean(output**2))
    return size * through_norm(gain * output / size + part, gain) - output


def _update(keys: Array, residuals: Array, moment: Array, settings: MemitSettings) -> Array:
    if settings.null:
        projection = null_projection(moment, settings.null)
        return alphaedit_update(keys, residuals, projection, settings.ridge)
    return memit_update(keys, residuals, moment, settings.weight)
