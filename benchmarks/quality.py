"""What the French cartridge does to held-out English prompts, by α, through the openai client.

For each α: the share of continuations that py3langid takes for French, distinct-2 (different
bigrams over all bigrams, 1 = no repetition) and NLL (nats a token of the continuation under the
unsteered model). Usage: quality.py URL [--cartridge french] [--prompts FILE] [--count 20]
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

import numpy as np
import py3langid
from openai import OpenAI
from rich.console import Console
from rich.table import Table
from scipy.special import logsumexp

from llamacart.llama.context import Context
from llamacart.llama.model import Model
from llamacart.values.batch import Batch

LIBRARY = Path(__file__).parents[1] / "cartridges" / "library"
# A suffix to the base model's id: unsteered, each α, and the cartridge's own default.
CHOICES = ("", "@0.0", "@0.4", "@0.6", "@0.8", "@1.0", "default")
TOKENS = 24


def nll(model: Model, prompts: list[str], texts: list[str]) -> float:
    """Mean negative log-likelihood of the continuations' tokens, in nats."""
    losses: list[float] = []
    with Context(model, n_ctx=256, n_batch=256, n_outputs=128) as context:
        for prompt, text in zip(prompts, texts, strict=True):
            head = model.tokenize(prompt)
            tokens = model.tokenize(prompt + text)
            wanted = range(len(head) - 1, len(tokens) - 1)
            context.clear()
            rows = list(range(len(tokens)))
            context.decode(Batch(tokens, rows, [0] * len(rows), [i in wanted for i in rows]))
            for i in wanted:
                logits = context.logits(i)
                losses.append(float(logsumexp(logits) - logits[tokens[i + 1]]))
    return float(np.mean(losses))


def distinct_2(model: Model, text: str) -> float:
    """Different bigrams of tokens over all of them."""
    tokens = model.tokenize(text, add_special=False)
    bigrams = list(itertools.pairwise(tokens))
    return len(set(bigrams)) / max(len(bigrams), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--cartridge", default="french")
    parser.add_argument("--prompts", type=Path, default=LIBRARY / "french" / "prompts.jsonl")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--show", default="default", choices=CHOICES, help="print these texts")
    options = parser.parse_args()
    records = [json.loads(line) for line in options.prompts.read_text().splitlines()]
    prompts = [record["prompt"] for record in records[: options.count]]
    client = OpenAI(base_url=f"{options.url}/v1", api_key="none")
    base = next(m.id for m in client.models.list() if ":" not in m.id)
    table = Table("alpha", "French", "distinct-2", "NLL")
    answers: dict[str, list[str]] = {}
    with Model("demo") as model:
        for choice in CHOICES:
            suffix = "" if choice == "default" else choice
            name = f"{base}:{options.cartridge}{suffix}" if choice else base
            texts = [
                client.completions.create(
                    model=name, prompt=prompt, max_tokens=TOKENS, temperature=0
                )
                .choices[0]
                .text
                for prompt in prompts
            ]
            answers[choice] = texts
            french = np.mean([py3langid.classify(text)[0] == "fr" for text in texts])
            distinct = np.mean([distinct_2(model, text) for text in texts])
            table.add_row(
                choice.removeprefix("@") or "none",
                f"{french:.2f}",
                f"{distinct:.3f}",
                f"{nll(model, prompts, texts):.2f}",
            )
    Console().print(table)
    print("alpha 0 is byte-identical to no cartridge:", answers["@0.0"] == answers[""])
    for prompt, text in zip(prompts, answers[options.show], strict=False):
        print(f"{prompt} | {text!r}")


if __name__ == "__main__":
    main()
