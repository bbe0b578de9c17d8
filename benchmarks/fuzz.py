"""Inputs that nobody would write, for as long as there is time: does anything fail that should not?

    python benchmarks/fuzz.py reader --minutes 60
    python benchmarks/fuzz.py templates --minutes 10
    python benchmarks/fuzz.py bodies --minutes 10 --url http://127.0.0.1:8080

`reader` changes cartridge files and reads them: each must be read or refused by a CartridgeError,
in memory that the file's length bounds. `templates` compiles and renders chat templates made of
pieces: each must give a text or an InputError. `bodies` sends JSON to each route of a running
server: no answer may be a 500, and every refusal must have OpenAI's form and say what is wrong.
A finding is printed with its seed, which `--seed` gives again; the exit code is then 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import resource
import sys
import tempfile
import time
import traceback
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
from harness import Report, machine_facts

from llamacart.cartridge import Cartridge, Fingerprint, LayerMap, Metadata
from llamacart.errors import CartridgeError, InputError
from llamacart.file.reader import read_cartridge
from llamacart.file.writer import write_cartridge
from llamacart.matrix import FactoredMatrix, QuantizedMatrix

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Field = tuple[int, int]
"""Position and size of a number in a file's header."""

MEMORY_CHECK_EVERY = 997
MEMORY_FACTOR, MEMORY_BASE = 16, 2**20
"""Reading may take this many times the file's length, and this much more."""

# --- cartridge files ------------------------------------------------------------------------------


def sample_files(folder: Path) -> list[bytes]:
    """Small valid cartridges: each type of delta, none, factors; one layer and several.

    Args:
        folder: To write into.
    """
    rng = np.random.default_rng(0)
    out = []
    for levels in (7, 15, 127, 0, None):
        layers = []
        for layer in range(2 if levels == 127 else 1):
            neurons = np.array([1, 5, 40], np.int32)
            bias = rng.normal(size=3).astype(np.float32)
            delta: QuantizedMatrix | FactoredMatrix | None = None
            if levels is None:
                left, right = rng.normal(size=(3, 2)), rng.normal(size=(2, 64))
                delta = FactoredMatrix.quantize(left, right)
            elif levels:
                values = rng.integers(-levels, levels + 1, (3, 64)).astype(np.int8)
                values[:, ::32] = levels
                delta = QuantizedMatrix(values, np.ones((3, 2), np.float16))
            layers.append(LayerMap(layer, neurons, delta, bias))
        metadata = Metadata("french", "d", settings={"a": [1, {"b": 0.5}]}, solver="ridge")
        cartridge = Cartridge(metadata, Fingerprint("llama", 2, 64, 8, "00" * 32), tuple(layers))
        path = folder / f"{levels}.gguf"
        write_cartridge(cartridge, path)
        out.append(path.read_bytes())
    return out


def header_fields(data: bytes) -> list[Field]:
    """Where the numbers of a valid cartridge's header are."""
    fields: list[Field] = []
    position = 4

    def number(size: int) -> int:
        nonlocal position
        fields.append((position, size))
        position += size
        return int.from_bytes(data[position - size : position], "little")

    def text() -> None:
        nonlocal position
        length = number(8)
        position += length

    number(4)
    n_tensors, n_keys = number(8), number(8)
    for _ in range(n_keys):
        text()
        text() if number(4) == 8 else number(4)
    for _ in range(n_tensors):
        text()
        for _ in range(number(4)):
            number(8)
        number(4)
        number(8)
    return fields


def mutated(rng: random.Random, files: Sequence[tuple[bytes, list[Field]]]) -> bytes:
    """One of the files, changed in one to four places."""
    source, fields = rng.choice(files)
    data = bytearray(source)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if not data:
            break
        way = rng.randrange(8)
        at = rng.randrange(len(data))
        if way == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif way == 1:
            data[at] = rng.randrange(256)
        elif way == 2:
            del data[at:]
        elif way == 3:
            del data[at : at + rng.randrange(1, 64)]
        elif way == 4:
            data[at:at] = rng.randbytes(rng.randrange(1, 64))
        elif way == 5:
            other = rng.choice(files)[0]
            start = rng.randrange(len(other))
            data[at : at + rng.randrange(128)] = other[start : start + rng.randrange(128)]
        else:
            position, size = rng.choice(fields)
            if position + size <= len(data):
                data[position : position + size] = _number(rng, data[position : position + size])
    return bytes(data)


def _number(rng: random.Random, old: bytes | bytearray) -> bytes:
    """A number of the same size that is near the old one, or at an edge."""
    size, limit = len(old), 1 << 8 * len(old)
    value = int.from_bytes(old, "little")
    edges = (0, 1, 2, 32, limit - 1, limit // 2, limit // 2 - 1, 1 << 31, (1 << 31) - 1, 1 << 20)
    chosen = rng.choice((value + rng.randrange(-40, 41), value * 2, value // 2, rng.choice(edges)))
    return (chosen % limit).to_bytes(size, "little")


def fuzz_reader(seeds: Iterator[int], count: Counter[str]) -> None:
    """Read changed cartridges until `seeds` ends.

    Raises:
        AssertionError: Memory is not bounded by the file.
    """
    memory = Path("/dev/shm")  # noqa: S108 - for speed; a folder of its own is made in it
    parent = memory if memory.is_dir() else None
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        files = [(data, header_fields(data)) for data in sample_files(Path(folder))]
        path = Path(folder) / "x.gguf"
        for number, seed in enumerate(seeds):
            data = mutated(random.Random(seed), files)
            path.write_bytes(data)
            watched = number % MEMORY_CHECK_EVERY == 0
            if watched:
                tracemalloc.start()
            try:
                read_cartridge(path)
                count["read"] += 1
            except CartridgeError as error:
                count[getattr(error, "rule", "other")] += 1
            finally:
                peak = tracemalloc.get_traced_memory()[1]
                tracemalloc.stop()
            if watched:
                assert peak <= MEMORY_FACTOR * len(data) + MEMORY_BASE, f"{peak} bytes"


# --- chat templates -------------------------------------------------------------------------------

_EXPRESSIONS = (
    "messages",
    "messages[0].content",
    "m.content",
    "m",
    "x",
    "none",
    "1",
    "'a' * 10 ** 8",
    "10 ** 10 ** 8",
    "range(10 ** 9)",
    "messages | length",
    "messages | tojson",
    "m | tojson(indent=2, ensure_ascii=false)",
    "x ~ x",
    "x + x",
    "'%9999999999d' % 1",
    "tools | default([]) | map(attribute='name') | list",
    "raise_exception('no')",
    "strftime_now('%Y')",
    "''.__class__.__mro__",
    "namespace(a=1)",
    "m.content.split('x')[-1].strip()",
    "cycler('a', 'b')",
    "messages[1:] | reverse | list",
    "f(x)",
)
_BLOCKS = (
    ("{% for m in EXPR %}", "{% endfor %}"),
    ("{%- if EXPR -%}", "{%- else -%}y{%- endif -%}"),
    ("{% generation %}", "{% endgeneration %}"),
    ("{% macro f(x) %}", "{% endmacro %}"),
    ("{% set x %}", "{% endset %}"),
    ("{% filter trim %}", "{% endfilter %}"),
    ("{% call f(1) %}", "{% endcall %}"),
    ("{% raw %}", "{% endraw %}"),
    ("{% block a %}", "{% endblock %}"),
)
_SINGLES = (
    "text\n",
    "<|im_start|>",
    "{{ EXPR }}",
    "{% set x = EXPR %}",
    "{% do messages.append(EXPR) %}",
    "{% break %}",
    "{% continue %}",
    "{# comment #}",
)
_JUNK = ("{% include 'x' %}", "{% endfor %}", "{{", "{{ m | unknown_filter }}", "{% x %}")


def random_template(rng: random.Random, depth: int = 0) -> str:
    """A template of a few pieces, of which some are no Jinja."""
    out = []
    for _ in range(rng.randrange(1, 5)):
        if depth < 5 and rng.random() < 0.4:
            opening, closing = rng.choice(_BLOCKS)
            out.append(opening + random_template(rng, depth + 1) + closing)
        else:
            out.append(rng.choice(_SINGLES))
    return (
        "".join(out)
        .replace("EXPR", rng.choice(_EXPRESSIONS), 1 + rng.randrange(3))
        .replace("EXPR", rng.choice(_EXPRESSIONS))
    )


def random_messages(rng: random.Random) -> list[dict[str, Any]]:
    """Messages as templates take them."""
    texts = ("", "Hi", "{{ 7 * 7 }}", "<|im_end|>", "é\ud83d", "x" * 1000)
    return [
        {"role": rng.choice(("system", "user", "assistant")), "content": rng.choice(texts)}
        for _ in range(rng.randrange(1, 4))
    ]


def try_template(rng: random.Random) -> str:
    """Compile and render one; returns what became of it."""
    from llamacart.chat.templates import ChatTemplate

    template = ChatTemplate("gguf", random_template(rng))
    try:
        template.render(random_messages(rng))
    except InputError as error:
        return (
            "refuses the messages" if template.problem is None else f"is no template: {error}"[:13]
        )
    return "rendered"


def fuzz_templates(seeds: Iterator[int], count: Counter[str]) -> None:
    """Try templates until `seeds` ends."""
    for seed in seeds:
        count[try_template(random.Random(seed))] += 1


# --- request bodies -------------------------------------------------------------------------------

ROUTES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "a"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}]},
    "/v1/responses": {"input": "Hi"},
    "/v1/embeddings": {"input": "Hi"},
    "/tokenize": {"content": "a"},
    "/detokenize": {"tokens": [10]},
}
"""Each route that takes JSON, with what it cannot do without beside `model`."""

_LEAVES = (
    *(None, True, False, 0, 1, -1, 2, 0.5, -0.0, 1e308, 2**31, 2**63, 10**30, 1e-320),
    *("", "a", "demo", "french", "user", "assistant", "text", "json_schema", "function", "auto"),
    *(
        "none",
        "required",
        "\ud800",
        "\x00",
        "é😀",
        "x" * 3000,
        "{{",
        "<end_of_turn>",
        "<tool_call>",
    ),
    *("root ::= x", "a+", "all", "prompt", "base64", "float", "object", "string"),
)


def random_value(rng: random.Random, names: Sequence[str], depth: int = 0) -> Any:
    """Any JSON; objects have keys of the API now and then."""
    kind = rng.random()
    if depth > 4 or kind < 0.6:
        return rng.choice(_LEAVES)
    if kind < 0.8:
        return [random_value(rng, names, depth + 1) for _ in range(rng.randrange(4))]
    keys = (rng.choice((*names, "x", "")) for _ in range(rng.randrange(4)))
    return {key: random_value(rng, names, depth + 1) for key in keys}


def random_body(
    rng: random.Random, path: str, model: str, names: Sequence[str], own: Sequence[str]
) -> bytes:
    """A body for a route: valid but for some fields, any JSON, or hardly JSON.

    Args:
        rng: Decides everything.
        path: The route.
        model: Model id to ask for.
        names: Fields of all bodies and of what is in them.
        own: Fields of this route's body.
    """
    if rng.random() < 0.1:
        return _spoilt(rng, json.dumps(random_value(rng, names)).encode())
    body: dict[str, Any] = {"model": model, "max_tokens": 2, **ROUTES[path]}
    if "completions" not in path or rng.random() < 0.2:
        body.pop("max_tokens")
    for _ in range(rng.choice((0, 1, 1, 2, 3, 6))):
        if rng.random() < 0.2:
            body.pop(rng.choice(list(body)), None)
        body[rng.choice(own if rng.random() < 0.9 else names)] = random_value(rng, names)
    if rng.random() < 0.3:
        body["stream"] = True
    raw = json.dumps(body).encode()
    return _spoilt(rng, raw) if rng.random() < 0.1 else raw


def _spoilt(rng: random.Random, raw: bytes) -> bytes:
    data = bytearray(raw)
    way = rng.randrange(6)
    at = rng.randrange(len(data) + 1)
    if way == 0:
        del data[at:]
    elif way == 1:
        data[at:at] = rng.randbytes(3)
    elif way == 2:
        data[at:at] = b"[" * rng.choice((10, 5000))
    elif way == 3:
        data[at:at] = b"9" * rng.choice((10, 5000))
    elif way == 4:
        data[at:at] = rng.choice((b"NaN", b"Infinity", b"1e999", b"\\ud800", b"\xef\xbb\xbf"))
    else:
        data += b'{"a":1,"a":2}'
    return bytes(data)


def check_answer(status: int, text: str) -> str:
    """What kind of answer it is.

    Raises:
        AssertionError: The server failed, or its refusal is not in OpenAI's form.
    """
    assert status < 500, f"status {status}: {text[:300]}"
    if status < 400:
        return str(status)
    body = json.loads(text)
    assert set(body) == {"error"}, text[:300]
    error = body["error"]
    assert set(error) == {"message", "type", "param", "code"}, text[:300]
    assert error["message"], text[:300]
    assert "error parsing the body" not in error["message"], text[:300]
    return str(status)


def field_names(document: dict[str, Any]) -> list[str]:
    """Every name of a field in an OpenAPI document's bodies."""
    schemas = document["components"]["schemas"].values()
    return sorted({name for schema in schemas for name in schema.get("properties", ())})


def own_fields(document: dict[str, Any], path: str) -> list[str]:
    """Names of the fields of a route's body."""
    content = document["paths"][path]["post"]["requestBody"]["content"]
    name = content["application/json"]["schema"]["$ref"].rpartition("/")[2]
    return list(document["components"]["schemas"][name]["properties"])


def fuzz_bodies(seeds: Iterator[int], count: Counter[str], url: str) -> None:
    """Send bodies to a running server until `seeds` ends."""
    with httpx.Client(base_url=url, timeout=120) as client:
        document = client.get("/openapi.json").json()
        names = field_names(document)
        model = client.get("/v1/models").json()["data"][0]["id"]
        for seed in seeds:
            rng = random.Random(seed)
            path = rng.choice(list(ROUTES))
            body = random_body(rng, path, model, names, own_fields(document, path))
            answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
            count[f"{path} {check_answer(answer.status_code, answer.text)}"] += 1


# --- all ------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Seeds:
    """Seeds from a first one on, for some time.

    Attributes:
        last: The one given out last.
    """

    first: int
    seconds: float
    only_one: bool = False
    last: int = -1

    def __iter__(self) -> Iterator[int]:
        end = time.monotonic() + self.seconds
        self.last = self.first
        while time.monotonic() < end:
            yield self.last
            if self.only_one:
                return
            self.last += 1


def main() -> int:
    """Run one fuzzer; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["reader", "bodies", "templates"])
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--seed", type=int, help="try this one alone")
    parser.add_argument("--first", type=int, default=0, help="seed to begin with")
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="server, for bodies")
    parser.add_argument("--json", type=Path, help="write the figures as JSON")
    given = parser.parse_args()
    first = given.first if given.seed is None else given.seed
    seeds = Seeds(first, 60 * given.minutes, only_one=given.seed is not None)
    fuzzers: dict[str, Callable[[Iterator[int], Counter[str]], None]] = {
        "reader": fuzz_reader,
        "templates": fuzz_templates,
        "bodies": lambda seeds, count: fuzz_bodies(seeds, count, given.url),
    }
    count: Counter[str] = Counter()
    begun, failed = time.monotonic(), False
    try:
        fuzzers[given.what](iter(seeds), count)
    except Exception:
        traceback.print_exc()
        print(f"found with --seed {seeds.last}")
        failed = True
    report = Report(machine_facts(1), given.json)
    report.figure("outcomes", dict(count.most_common()), f"{given.what}: {dict(count)}")
    total, seconds = count.total(), time.monotonic() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    text = f"{total} inputs in {seconds:.0f} s, {int(failed)} findings, peak memory {peak} MiB"
    report.figure("total", [total, seconds, int(failed), peak], text)
    report.write()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
