"""The row of a training is read from what the command says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from training import Row, main, shortened

from llamacart_trainer.recipe.recipe import load_task

SAID = """priority: nice 19
memory: all texts at once, 2.26 of 11.77 GiB, 3.20 with the model
train: layer 1 of 25, 4 %, 5:29 left
load the model     1.15 s
fit              189.03 s
total            362.88 s
12 pairs, 5605 rows, 7500 active neurons, 55.16 MB: my-cartridges/polite.gguf
"""


def test_a_row_is_read() -> None:
    row = Row.read(SAID)
    assert (row.way, row.planned) == ("all texts at once", 3.2)
    assert row.seconds == {"load the model": 1.15, "fit": 189.03, "total": 362.88}
    assert (row.rows, row.neurons, row.megabytes) == (5605, 7500, 55.16)


def test_a_training_that_failed_is_no_row() -> None:
    with pytest.raises(ValueError, match="did not end"):
        Row.read(SAID.partition("load")[0])


def test_a_recipe_is_cut(tmp_path: Path) -> None:
    french = Path(__file__).parents[3] / "cartridges/library/french"
    whole = load_task(french)
    cut = load_task(shortened(french, tmp_path, 100, 0.25))
    assert (len(cut.pairs), len(whole.pairs)) == (25, 200)
    assert cut.neutral == whole.neutral[::4]
    assert cut.recipe.penalty == whole.recipe.penalty


def test_a_training_from_first_to_last(tiny_path, capfd) -> None:
    model = str(tiny_path())
    with pytest.raises(SystemExit) as end:
        main([model, "--share", "0.02", "--threads", "1"])
    assert not end.value.code
    (line,) = capfd.readouterr().out.splitlines()
    assert re.match(
        rf"{re.escape(model)}: \d+ rows, all texts at once; [\d.]+ s \(load the model .*; "
        r"processor [\d.]+\); planned [\d.]+ GiB, taken [\d.]+ GiB, ratio [\d.]+; "
        r"\d+ neurons, [\d.]+ MB",
        line,
    )
