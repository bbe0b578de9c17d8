from pathlib import Path

import pytest
from step_cost import MACHINES, SHAPES, cost, disappears_at, given, table


def test_the_docs_have_what_the_script_prints() -> None:
    page = Path(__file__).parents[3] / "docs" / "metal.md"
    assert table(MACHINES, 150) in page.read_text(encoding="utf-8")


def test_a_larger_model_feels_steering_less() -> None:
    for machine in MACHINES:
        shares = [cost(machine, shape, 150).share_on_device for shape in SHAPES]
        assert shares == sorted(shares, reverse=True)
        for shape in SHAPES:
            own = cost(machine, shape, 150)
            assert own.share_on_device < own.share_by_copies


def test_what_was_measured_replaces_what_was_assumed() -> None:
    other = given(MACHINES, "stop", ["Metal, M2=10"])
    assert [m.stop for m in other if m.name == "Metal, M2"] == [10]
    assert other[1:] == MACHINES[1:]
    assert disappears_at(other[0], 34) == pytest.approx(disappears_at(MACHINES[0], 34) / 10)
    assert given(MACHINES, "bandwidth", ["Metal, M2=90"])[0].bandwidth == 90e9
    with pytest.raises(ValueError, match="no machine is called 'x'"):
        given(MACHINES, "stop", ["x=1"])
