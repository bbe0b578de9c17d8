"""The HTML report: every section, nothing from elsewhere, nothing unescaped."""

from __future__ import annotations

import importlib.util
import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from llamacart_trainer.evaluation import tables
from llamacart_trainer.evaluation.bootstrap import Estimate
from llamacart_trainer.evaluation.results import Evaluation, Point
from llamacart_trainer.report import plots
from llamacart_trainer.report.page import SECTIONS, render


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    path = Path(__file__).parents[1] / "evaluation" / "test_objective.py"
    spec = importlib.util.spec_from_file_location("made", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made: Evaluation = module.evaluation()
    return made


@pytest.fixture(scope="module")
def page(evaluation: Evaluation) -> str:
    return render(evaluation)


def test_every_section_is_there_and_linked(page: str) -> None:
    for anchor, heading in SECTIONS.items():
        assert f'<h2 id="{anchor}">{heading}</h2>' in page
        assert f'href="#{anchor}"' in page
    assert page.count("<svg") == 5


def test_nothing_is_fetched_from_elsewhere(page: str) -> None:
    assert "<script" not in page
    for attribute, value in re.findall(r"""\b(src|href|xlink:href)=["']([^"']*)["']""", page):
        assert value.startswith("#"), (attribute, value)
    assert not re.search(r"url\((?!#)", page)
    assert "@import" not in page
    # What is left of addresses are XML namespaces, which nobody fetches.
    for place in re.finditer(r"https?://", page):
        assert re.search(r'xmlns(:\w+)?="$', page[: place.start()][-16:]), page[place.start() :][
            :60
        ]


def test_texts_are_escaped(page: str) -> None:
    assert "A &amp; b &lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "Says &lt;b&gt;oui&lt;/b&gt;." in page
    assert "share of &lt;x&gt;" in page


def test_figures_and_texts_are_shown(page: str) -> None:
    for text in (
        "0.70<small>0.60–0.80</small>",
        "un texte",
        "le plafond",
        "penalty",
        "frontier</span>",
    ):
        assert text in page
    # The best of two contenders, in the test and among all strengths.
    assert page.count('<tr class="best">') == 4
    assert "All strengths (5 points)" in page


@pytest.mark.parametrize("width", [80, 120])
def test_tables_lose_nothing_in_a_narrow_terminal(evaluation: Evaluation, width: int) -> None:
    console = Console(record=True, width=width)
    against = tables.differences_table(evaluation)
    assert against
    console.print(tables.points_table(evaluation), tables.best_table(evaluation), against)
    text = console.export_text()
    assert "…" not in text
    for cell in ("* 0.8", "P 0.4", "2.00", "-0.50", "-0.70", "-0.25", "1.90"):
        assert cell in text
    assert {"+ -0.50", "- -0.25"} <= {" ".join(cell.split()) for cell in re.split("[│┃\n]", text)}
    words = " ".join(re.sub(r"[│┃]", " ", text).split())
    assert "all 3 comparisons" in words
    assert words.count(evaluation.provenance) == 2


def test_terminal_page_and_json_give_one_verdict(evaluation: Evaluation, page: str) -> None:
    """The corrected p decides, not the interval; what chose α and what was tested is said."""
    figures = json.loads(evaluation.to_json())["differences"][0]["figures"]
    assert {name: each["adjusted"] for name, each in figures.items()} == {
        "nll": 0.003, "kl": 0.08, "distinct": 0.02,
    }  # fmt: skip
    (row,) = evaluation.differences
    signs = {name: tables.difference_cell(name, apart)[0] for name, apart in row.figures.items()}
    assert signs == {"nll": "+", "kl": "", "distinct": "-"}
    assert page.count("all 3 comparisons") == 1
    provenance = (
        "α chosen on 4 prompts, 5 answers, 6 neutral texts; "
        "tested on others: 1 prompt, 2 answers, 3 neutral texts."
    )
    assert evaluation.provenance == provenance
    assert page.count(provenance) == 3
    assert "On 4 prompts, 5 answers, 6 neutral texts, which chose α." in page


def test_contenders_are_told_apart_by_the_corrected_p(page: str) -> None:
    assert '<td class="better">-0.50<small>-0.70 -0.30</small>' in page
    assert "<td>+0.10<small>+0.01 +0.30</small>" in page
    assert '<td class="worse">-0.25<small>' in page


def test_what_was_not_measured_is_said(evaluation: Evaluation) -> None:
    bare = replace(evaluation.cartridges[0], heldout=None, diagnostics={})
    page = render(replace(evaluation, cartridges=(bare,)))
    assert "No held-out pairs were evaluated." in page
    assert "holds no spectra" in page
    page = render(replace(evaluation, cartridges=(), prompts=(), references=(), differences=()))
    assert "There is one contender." in page
    assert "No cartridge was evaluated." in page
    assert "The recipe has no prompts." in page


def test_pictures_are_well_formed_and_reproducible(evaluation: Evaluation) -> None:
    heldout = evaluation.cartridges[0].heldout
    assert heldout
    assert heldout.projection
    for svg in (
        plots.fidelity_plot(heldout),
        plots.projection_plot(heldout.projection),
        plots.sweep_plot(evaluation),
        plots.frontier_plot(evaluation),
    ):
        root = ElementTree.fromstring(svg)  # noqa: S314 (our own)
        assert root.tag.endswith("svg")
    assert plots.sweep_plot(evaluation) == plots.sweep_plot(evaluation)


def test_prompts_stand_beside_cartridges(evaluation: Evaluation) -> None:
    """Lines without α in tables and plots, and a sentence that sets the cartridge against them."""
    base = evaluation.points[3].scores
    line = Point("system prompt", "prompt", 0.0, replace(base, kl=None))
    beside = replace(
        evaluation,
        points=(*evaluation.points, line),
        tests=(*evaluation.tests, line),
        best={**evaluation.best, "system prompt": 0.0},
    )
    shown = render(beside)
    assert "mine: α 0.8: " in shown
    assert shown.count("system prompt") >= 4
    row = shown[shown.index("<td>system prompt") :][:200]
    assert "<td></td>" in row
    assert "system prompt" not in render(evaluation)


def test_a_best_strength_without_the_behaviour_is_not_marked_and_it_is_said(
    evaluation: Evaluation,
) -> None:
    said = "No α of other is marked: its behaviour was 0.00 at the best of them, 0.8."
    assert tables.unstarred(evaluation) == []
    last = evaluation.points[-1]
    nothing = Estimate(0.0, 0.0, 0.4, 5)
    none = replace(last, scores=replace(last.scores, behaviour=nothing))
    without = replace(evaluation, points=(*evaluation.points[:-1], none))
    assert tables.unstarred(without) == [said]
    assert said in render(without)
    console = Console(record=True, width=200)
    console.print(tables.points_table(without))
    assert said in " ".join(console.export_text().split())
