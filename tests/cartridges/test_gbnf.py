"""What is refused of a grammar before llama.cpp sees it, and that the rest is safe for it."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time

import pytest

from llamacart.errors import InputError
from llamacart.gbnf import MAX_BYTES, check_grammar

JSON = r"""
root   ::= object # a comment
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9]{1,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"""
GOOD = [
    JSON,
    'root ::= ""',
    "root ::= ",
    'root ::= (("a"*)*)',
    'root ::= "a"{2,5} [^a-z\\]]+ (b | "x")?\nb ::= "\\x41"\n\n',
    'root ::=\r\n  "a" |\r\n  "b"\r\n',
    'root ::= "ж" [а-я]{3,} .',
    "root ::= x{1,2}\nx ::= [-a]",
]
HOSTILE = {
    "": "no rule 'root'",
    'a ::= "x"': "no rule 'root'",
    "root": "'::='",
    'root ::= "a': "end of a string",
    'root ::= "\\q"': "end of a string",
    "root ::= [a": "end of a character class",
    "root ::= []": "empty character class",
    "root ::= a": "does not define",
    "root ::= *": "something before",
    'root ::= ""+': "something before",
    'root ::= "a" )': "new line or the end",
    'root ::= ("a"': r"needs '\)'",
    'root ::= root "x" | "y"': "left-recursive",
    'root ::= a root "x" | "y"\na ::= b\nb ::= ""': "left-recursive",
    'root ::= (root | "a"*)*': "left-recursive",
    "root ::= x\nx ::= x": "leads only to itself",
    'root ::= "a" x\nx ::= e x\ne ::= f\nf ::= ""': "leads only to itself",
    "root ::= " + "(" * 100_000: "deep",
    "root ::= " + "(" * 500 + '"a"' + ")" * 500: "deep",
    'root ::= "a"{5,2}': "at least 5 and at most 2",
    'root ::= "a"{3 4}': "comma",
    'root ::= "a"{99999}': "99999 times",
    'root ::= "a"{1': "a repetition like",
    'root ::= "a"{1' + " #" * 1000: "a repetition like",
    "root ::= " + '"a"{0,2000} ' * 2000: "50000 elements",
    'root ::= ("' + "a" * 60_000 + '"){0,2000}': "50000 elements",
    "root ::= <[5]>": "token rule",
    'root ::= "a" !<[5]>': "token rule",
    "root ::= r0\nr60 ::= [a]\n"
    + "\n".join(f"r{i} ::= r{i + 1} | r{i + 1}" for i in range(60)): "too many ways",
    "root ::= r0\nr9000 ::= [a]\n"
    + "\n".join(f"r{i} ::= r{i + 1}" for i in range(9000)): "too many ways",
    'root ::= "a"\0': "NUL",
    'root ::= "\ud800"': "surrogate",
    "root ::= [a]" + " " * MAX_BYTES: "bytes",
}


@pytest.mark.parametrize("text", GOOD)
def test_good_grammars_pass(text):
    assert check_grammar(text) == text.encode()


@pytest.mark.parametrize(("text", "reason"), HOSTILE.items(), ids=[k[:30] for k in HOSTILE])
def test_bad_grammars_are_refused_at_once(text, reason):
    start = time.monotonic()
    with pytest.raises(InputError, match=reason) as caught:
        check_grammar(text)
    assert caught.value.param == "grammar"
    assert len(caught.value.message) < 200
    assert time.monotonic() - start < 2


PIECES = [
    *'"a"~"bc"~""~[a-c]~[^x]~.~r0~r1~r2~root~(~)~|~|~*~+~?~{2}~{0,3}~{1,}~ '.split("~"),  # noqa: SIM905
    *("\n", "\nr0 ::= ", "\nr1 ::= ", "\nr2 ::= "),
]
TAIL = '\nr0 ::= [a] | r1\nr1 ::= "" | [b]\nr2 ::= [c] r0'


def test_what_passes_neither_hangs_nor_kills_llama_cpp(tiny_path):
    draw = random.Random(5)
    passed = []
    while len(passed) < 1500:
        body = "".join(draw.choices(PIECES, k=draw.randint(1, 12)))
        try:
            passed.append(check_grammar("root ::= " + body + draw.choice(["", TAIL])).decode())
        except InputError:
            continue
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", _WALK, str(tiny_path())],
        input=json.dumps(passed),
        text=True,
        capture_output=True,
        timeout=120,
        check=False,
    )
    *_, last = done.stdout.splitlines()
    assert done.returncode == 0, f"after {last}: {done.stderr[-2000:]}"
    assert int(last) > 1000, "llama.cpp takes most of what the check lets through"


_WALK = """
import json, sys
import numpy as np
from llamacart.errors import EngineError, InputError
from llamacart.logits import Candidates
from llamacart.model import Model
from llamacart.sampling import Sampler, SamplingParams

taken = 0
with Model(sys.argv[1]) as model:
    candidates = Candidates(model.n_vocab)
    logits = np.zeros(model.n_vocab, np.float32)
    logits[[3 + ord(c) for c in "abcx"]] = 4
    for text in json.load(sys.stdin):
        print(repr(text), flush=True)
        try:
            sampler = Sampler(SamplingParams(grammar=text, seed=1), model)
        except InputError:
            continue
        taken += 1
        for _ in range(6):
            try:
                if model.is_end_of_generation(sampler.choose(logits, candidates)):
                    break
            except EngineError:
                break
        sampler.close()
print(taken)
"""
