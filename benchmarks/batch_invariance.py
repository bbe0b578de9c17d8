"""Do requests that run together give the texts they give alone?

Eight greedy requests with eight different (cartridge, α) choices over all cartridges the server
lists, first one after the other, then all at once. Usage: batch_invariance.py URL [--rounds 3]
"""

from __future__ import annotations

import argparse
import asyncio
import itertools

from openai import AsyncOpenAI

PROMPT = "When the train finally arrived at the station,"
ALPHAS = (0.2, 0.4, 0.6, 0.8, 1.0, 0.5, 0.7, 0.9)
TOKENS = 48


async def ask(client: AsyncOpenAI, model: str) -> str:
    answer = await client.completions.create(
        model=model, prompt=PROMPT, max_tokens=TOKENS, temperature=0
    )
    return answer.choices[0].text


async def run(url: str, rounds: int) -> None:
    client = AsyncOpenAI(base_url=f"{url}/v1", api_key="none")
    ids = [model.id async for model in client.models.list()]
    base = next(i for i in ids if ":" not in i)
    cartridges = [i for i in ids if ":" in i]
    choices = [f"{c}@{a}" for a, c in itertools.product(ALPHAS, cartridges)][:7]
    models = [base, *choices]
    alone = [await ask(client, model) for model in models]
    for number in range(rounds):
        together = await asyncio.gather(*(ask(client, model) for model in models))
        same = [a == b for a, b in zip(alone, together, strict=True)]
        print(f"round {number + 1}: {sum(same)} of {len(models)} texts equal")
    print(f"{len(set(alone))} of {len(models)} texts differ from each other")
    for model, text in zip(models, alone, strict=True):
        print(f"  {model}: {text[:70]!r}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    asyncio.run(run(options.url, options.rounds))


if __name__ == "__main__":
    main()
