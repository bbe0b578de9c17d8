"""Ranks and the Pareto frontier, by properties; results go to JSON and back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamacart.errors import InputError
from llamacart_trainer.commands.outputs import write_text
from llamacart_trainer.evaluation.bootstrap import Estimate
from llamacart_trainer.evaluation.objective import Objective, best_alphas, frontier
from llamacart_trainer.evaluation.results import (
    CartridgeFacts,
    Difference,
    Evaluation,
    HeldOut,
    LayerFidelity,
    Measured,
    Point,
    Projection,
    Scores,
)
from llamacart_trainer.evaluation.significance import Contrast

LEVELS = st.sampled_from([0.0, 0.25, 0.5, 1.0])


def scores(behaviour: float, nll: float, kl: float, distinct: float = 0.8) -> Scores:
    made = (Estimate(v, v - 0.1, v + 0.1, 5) for v in (behaviour, nll, distinct, 0.0, kl))
    return Scores(*made, written=Estimate(1.0, 0.9, 1.0, 5), texts=("un texte",))


def point(label: str, alpha: float, *values: float, kind: str = "cartridge") -> Point:
    return Point(label, kind, alpha, scores(*values))  # type: ignore[arg-type]


POINTS = st.lists(st.tuples(LEVELS, LEVELS, LEVELS), min_size=1, max_size=12).map(
    lambda rows: [point(f"c{i}", 1.0, *row) for i, row in enumerate(rows)]
)


def goods(p: Point) -> tuple[float, float, float]:
    s = p.scores
    assert s.behaviour
    assert s.nll
    assert s.kl
    return s.behaviour.value, -s.nll.value, -s.kl.value


def at_least(a: Point, b: Point) -> bool:
    return all(x >= y for x, y in zip(goods(a), goods(b), strict=True))


@given(POINTS)
def test_every_point_is_covered_by_the_frontier(points: list[Point]) -> None:
    front = frontier(points)
    assert front
    assert all(any(at_least(f, p) for f in front) for p in points)


@given(POINTS)
def test_no_frontier_point_beats_another(points: list[Point]) -> None:
    front = frontier(points)
    for a in front:
        assert not any(at_least(b, a) and goods(b) != goods(a) for b in front)
    assert frontier(front) == front


@given(POINTS)
def test_the_best_of_each_measure_is_on_the_frontier(points: list[Point]) -> None:
    front = {goods(p) for p in frontier(points)}
    for axis in range(3):
        assert max(g[axis] for g in map(goods, points)) == max(g[axis] for g in front)


def test_the_ceiling_takes_no_part() -> None:
    points = [point("a", 1.0, 0.5, 2.0, 1.0), point("ceiling", 0.0, 1.0, 1.0, 0.0, kind="ceiling")]
    assert [p.label for p in frontier(points)] == ["a"]


def test_objective_demands_behaviour_then_takes_the_cheapest() -> None:
    objective = Objective(target=0.9, kl_weight=2.0, distinct=0.6)
    weak = point("weak", 0.2, 0.5, 1.0, 0.0)
    dear = point("dear", 0.8, 0.95, 2.0, 0.5)
    cheap = point("cheap", 1.0, 0.9, 2.2, 0.1)
    loops = point("loops", 1.2, 1.0, 0.1, 0.0, 0.2)
    assert objective.best([weak, dear, cheap, loops]).label == "cheap"
    assert objective.best([weak, loops]).label in ("weak", "loops")
    assert objective.shortfall(loops.scores) == pytest.approx(0.4)
    assert objective.shortfall(weak.scores) == pytest.approx(0.4)
    assert objective.cost(dear.scores) == pytest.approx(3.0)
    assert best_alphas([point("a", 0.5, 0.9, 3, 0), point("a", 0.7, 0.9, 2, 0)], objective) == {
        "a": 0.7
    }


@given(POINTS)
def test_the_objectives_best_is_on_the_frontier_up_to_ties(points: list[Point]) -> None:
    objective = Objective(target=1.0, distinct=0.0)
    best = objective.best(points)
    assert any(objective.key(f.scores) == objective.key(best.scores) for f in frontier(points))


NOTHING = Estimate(0.0, 0.0, 0.2, 20)
FLUENT = scores(0.9, 2.5, 0.3)
SILENT = Scores(NOTHING, None, NOTHING, Estimate(1, 1, 1, 20), FLUENT.kl, written=NOTHING)


def test_silence_never_beats_fluent_text() -> None:
    """No text has no NLL and repeats nothing: neither is a merit."""
    for objective in (
        Objective(),
        Objective().of(behaviour=False, texts=True),
        Objective(target=0.0, distinct=0.0, written=0.0),
    ):
        assert objective.key(FLUENT) < objective.key(SILENT), objective
    silent, fluent = (Point(n, "cartridge", 1.0, s) for n, s in (("s", SILENT), ("f", FLUENT)))
    assert Objective().best([silent, fluent]) is fluent
    # KL is equal, and no NLL is no good NLL.
    assert frontier([silent, fluent]) == [fluent]


@pytest.mark.parametrize("field", ["behaviour", "nll", "distinct", "kl", "written"])
@given(behaviour=LEVELS, nll=LEVELS, kl=LEVELS, distinct=LEVELS)
def test_unmeasured_is_never_better_than_measured(
    field: str, behaviour: float, nll: float, kl: float, distinct: float
) -> None:
    measured = scores(behaviour, nll, kl, distinct)
    unknown = replace(measured, **{field: None})  # type: ignore[arg-type]
    objective = Objective()
    assert objective.key(measured) <= objective.key(unknown)
    points = [Point("m", "cartridge", 1.0, measured), Point("u", "cartridge", 1.0, unknown)]
    assert points[0] in frontier(points)


def test_what_a_plan_does_not_measure_is_not_demanded() -> None:
    assert str(Objective()) == (
        "behaviour ≥ 0.95 and distinct-2 ≥ 0.6 and texts written ≥ 0.9, then least NLL + 1 × KL"
    )
    answers = Objective().of(behaviour=True, texts=False)
    assert str(answers) == "behaviour ≥ 0.95, then least NLL + 1 × KL"
    assert answers.shortfall(Scores(Estimate(1, 1, 1, 9), None, None, None)) == 0
    assert str(Objective().of(behaviour=False, texts=False)) == "least NLL + 1 × KL"


def test_a_prompt_sets_the_standard() -> None:
    """Behaviour not below its own; where it does what is wanted, its texts say what a loop is."""
    objective = Objective(target=0.9, distinct=0.6)
    weak = point("system prompt", 0.0, 0.2, 1.0, 0.0, 0.9, kind="prompt")
    good = point("examples", 0.0, 1.0, 1.0, 0.0, 0.5, kind="prompt")
    assert objective.beside([point("mine", 1.0, 1.0, 1.0, 0.0)]) == objective
    assert objective.beside([weak]) == objective
    beside = objective.beside([weak, good])
    assert beside.target == 1.0
    assert beside.distinct == pytest.approx(0.3)
    # Repetition is 0 in these figures.
    assert beside.repetition == pytest.approx(0.4)
    assert str(beside) == (
        "behaviour ≥ 1 and distinct-2 ≥ 0.3 and texts written ≥ 0.9 and repetition ≤ 0.4, then "
        "least NLL + 1 × KL"
    )
    loops = replace(good.scores, repetition=Estimate(0.9, 0.8, 1.0, 5))
    assert beside.shortfall(loops) == pytest.approx(0.5)
    assert beside.shortfall(good.scores) == 0
    assert beside.shortfall(replace(good.scores, repetition=None)) == pytest.approx(0.6)
    # Which prompt is distilled decides, however much behaviour another has.
    own = replace(weak, kind="prompted")
    distils = replace(objective, prompted=True)
    assert distils.beside([own, good]).target == 0.9
    assert distils.beside([own, good]).distinct == pytest.approx(0.54)
    # What is not measured is not demanded beside a prompt either.
    nothing = Objective().of(behaviour=False, texts=False)
    assert nothing.beside([good]) == nothing


@given(POINTS)
def test_a_prompt_is_never_content_with_less_behaviour(points: list[Point]) -> None:
    prompts = [replace(p, kind="prompt") for p in points]
    most = max(p.scores.behaviour.value for p in prompts if p.scores.behaviour)
    assert Objective(target=0.3).beside(prompts).target == max(0.3, most)


def test_a_prompt_that_is_distilled_is_come_near_to() -> None:
    near, far = scores(1.0, 3.0, 0.1), scores(1.0, 1.0, 0.1)
    near = replace(near, kl_prompted=Estimate(0.1, 0, 1, 5))
    far = replace(far, kl_prompted=Estimate(0.3, 0, 1, 5))
    points = [Point("far", "cartridge", 0.5, far), Point("near", "cartridge", 1.0, near)]
    assert Objective().best(points).label == "far"
    distils = Objective().of(behaviour=True, texts=True, prompted=True)
    assert distils.best(points).label == "near"
    assert distils.key(near) < distils.key(replace(near, kl_prompted=None))
    assert "least KL to the prompted model + 1 × KL" in str(distils)
    assert [p.label for p in frontier(points)] == ["far"]
    assert [p.label for p in frontier(points, prompted=True)] == ["near"]


def evaluation() -> Evaluation:
    plane = ((0.0, 1.0), (2.0, -1.0), (0.5, 0.25))
    heldout = HeldOut(
        (LayerFidelity(0, 4, 9, 0.9, 1.1, 0.5), LayerFidelity(2, 3, 9, 0.4, 0.7, -0.2)),
        Projection(2, (0.6, 0.2), plane, plane, plane, plane),
    )
    layers = [{"layer": 0, "spectrum": [3.0, 1.0, 0.1]}, {"layer": 2, "spectrum": []}]
    facts = CartridgeFacts(
        "mine", "Says <b>oui</b>.", "ridge", "ab" * 32, 0.8, 7, {"penalty": 3.0},
        {"rows": 9, "layers": layers}, heldout,
    )  # fmt: skip
    points = (
        point("unsteered", 0.0, 0.0, 1.0, 0.0, kind="unsteered"),
        Point("ceiling", "ceiling", 0.0, Scores(None, None, None, None, texts=("le plafond",))),
        point("mine", 0.4, 0.7, 1.5, 0.2),
        point("mine", 0.8, 1.0, 2.0, 0.4),
        point("other", 0.8, 0.8, 2.5, 0.6, kind="control-vector"),
    )
    return Evaluation(
        recipe="r", model="tiny", behaviour="share of <x>", objective=str(Objective()),
        prompts=("A & b <script>alert(1)</script>",), references=("Le",), points=points,
        best={"unsteered": 0.0, "ceiling": 0.0, "mine": 0.8, "other": 0.8},
        tests=(*points[:2], *points[3:]), tested_on=Measured(1, 2, 3), chosen_on=Measured(4, 5, 6),
        frontier=(("unsteered", 0.0), ("mine", 0.4), ("mine", 0.8)), cartridges=(facts,),
        differences=(
            Difference(
                "mine", 0.8, "other", 0.8,
                {"nll": Contrast(-0.5, -0.7, -0.3, 5, 0.001, 0.003),
                 # Its own interval leaves out 0; among three comparisons that is not enough.
                 "kl": Contrast(0.1, 0.01, 0.3, 5, 0.04, 0.08),
                 "distinct": Contrast(-0.25, -0.3, -0.2, 5, 0.01, 0.02)},
            ),
        ),
        created="2026-01-01T00:00:00+00:00", tool_version="0",
    )  # fmt: skip


def test_no_strength_without_the_behaviour_is_a_best() -> None:
    made = evaluation()
    best = {(p.label, p.alpha) for p in made.points if made.is_best(p)}
    assert best == {("mine", 0.8), ("other", 0.8)}
    none = replace(made.points[-1].scores, behaviour=NOTHING)
    unmeasured = replace(none, behaviour=None)
    for scores_of_other in (none, unmeasured):
        points = (*made.points[:-1], replace(made.points[-1], scores=scores_of_other))
        other = replace(made, points=points)
        assert [p.label for p in other.points if other.is_best(p)] == ["mine"]
    bare = tuple(replace(p, scores=replace(p.scores, behaviour=None)) for p in made.points)
    without = replace(made, points=bare)
    assert [p.label for p in without.points if without.is_best(p)] == ["mine", "other"]


def test_json_and_back(tmp_path: Path) -> None:
    made = evaluation()
    path = tmp_path / "new" / "e.json"
    write_text(path, made.to_json())
    assert Evaluation.from_json(path.read_text(encoding="utf-8")) == made
    assert [p.name for p in path.parent.iterdir()] == ["e.json"]


def test_json_refusals(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no evaluation: recipe"):
        Evaluation.from_json(evaluation().to_json().replace('"recipe": "r"', '"recipe": 3'))
    path = tmp_path / "e.json"
    path.write_bytes(b"")
    with pytest.raises(InputError, match="cannot be written"):
        write_text(path / "below.json", "x")
