"""Some of what `benchmarks/fuzz.py` tries for hours, the same every time."""

import random
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

import fuzz

SOME = settings(max_examples=400, derandomize=True, deadline=None, database=None)
SEEDS = st.integers(0, 2**64)


@pytest.fixture(scope="module")
def document(shared_client):
    return shared_client.get("/openapi.json").json()


@pytest.mark.parametrize("path", fuzz.ROUTES)
def test_no_body_makes_the_server_fail(shared_client, shared_engine, document, path):
    names, own = fuzz.field_names(document), fuzz.own_fields(document, path)
    assert {"temperature", "cartridges", "include_usage", "response_format"} <= set(names)
    statuses = Counter()

    @settings(SOME, max_examples=500)
    @given(SEEDS)
    def run(seed):
        shared_engine.reset()
        body = fuzz.random_body(random.Random(seed), path, "demo", names, own)
        headers = {"Content-Type": "application/json"}
        answer = shared_client.post(path, content=body, headers=headers)
        statuses[fuzz.check_answer(answer.status_code, answer.text)] += 1

    run()
    assert statuses["200"] >= 50  # else it would try refusals alone
    assert statuses["400"] >= 50


def test_no_template_makes_the_server_fail():
    outcomes = Counter()

    @SOME
    @given(SEEDS)
    def run(seed):
        outcomes[fuzz.try_template(random.Random(seed))] += 1

    run()
    assert min(outcomes.values()) >= 10
    assert len(outcomes) == 3


def test_no_file_makes_the_reader_fail():
    outcomes = Counter()
    fuzz.fuzz_reader(iter(range(2 * fuzz.MEMORY_CHECK_EVERY)), outcomes)
    assert outcomes.total() == 2 * fuzz.MEMORY_CHECK_EVERY
    assert outcomes["read"] >= 10
    assert len(outcomes) >= 15  # rules that were broken


def test_what_is_no_answer_of_ours_is_a_finding():
    fuzz.check_answer(404, '{"error": {"message": "m", "type": "t", "param": null, "code": "c"}}')
    for status, text in (
        (500, "{}"),
        (400, '{"detail": "x"}'),
        (422, '{"error": {"message": "", "type": "t", "param": null, "code": "c"}}'),
    ):
        with pytest.raises(AssertionError):
            fuzz.check_answer(status, text)


def test_the_numbers_of_a_header_are_found(tmp_path):
    for data in fuzz.sample_files(tmp_path):
        fields = fuzz.header_fields(data)
        assert len(fields) > 70
        assert data[: fields[0][0]] == b"GGUF"
        assert all(position + size <= len(data) for position, size in fields)
