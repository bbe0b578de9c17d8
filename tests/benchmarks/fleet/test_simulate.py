"""The simulation of fleets against what can be computed by hand."""

from argparse import Namespace

import pytest
from fleet import simulate as fleet


def given(**change):
    plain = {
        "steps": "1:100,4:200",
        "parallel": 4,
        "prompt": 0,
        "answer": 10,
        "load_ms": 500,
        "held": 2,
        "cartridges": 6,
        "zipf": 0.0,
        "ongoing": 4,
        "factor": 1.5,
    }
    return Namespace(**{**plain, **change})


def answered(requests, n_boxes=1, router="least", clients=None, **change):
    boxes = fleet.Fleet(n_boxes, router, fleet.Machine(given(**change)))
    boxes.run(requests, clients)
    assert len(boxes.done) == len(requests)
    return boxes.done


def test_a_request_alone():
    (done,) = answered([fleet.Request(0, 3.0)])
    assert not done.met
    assert done.seconds == pytest.approx(0.5 + 10 * 0.1)


def test_requests_share_the_steps():
    requests = [fleet.Request(0, 0.0) for _ in range(4)]
    done = answered(requests, load_ms=0)
    assert [request.seconds for request in done] == pytest.approx([10 * 0.2] * 4)
    assert sum(request.met for request in done) == 3


def test_a_request_waits_for_its_turn():
    requests = [fleet.Request(0, 0.0) for _ in range(5)]
    done = answered(requests, load_ms=0, ongoing=9)
    assert done[-1].seconds == pytest.approx(10 * 0.2 + 10 * 0.1)


def test_a_prompt_costs_rows():
    machine = fleet.Machine(given(prompt=8))
    assert machine.work == 10 + 8 / 4
    assert machine.most == pytest.approx(4 / (12 * 0.2))


def test_a_box_keeps_what_was_used_last():
    order = [0, 1, 0, 2, 0, 1]
    requests = [fleet.Request(c, 10.0 * i) for i, c in enumerate(order)]
    done = answered(requests)
    assert [request.met for request in done] == [False, False, True, False, True, False]


@pytest.mark.parametrize("router", ["hash", "affine"])
def test_routers_that_look_at_cartridges_meet_more(router):
    def share(router):
        wanted = fleet.arrivals(1.0, 1000, given())
        done = answered(wanted, 3, router)
        return sum(request.met for request in done) / len(done)

    assert share(router) > share("least") + 0.1


def test_clients_wait_for_their_answers():
    requests = [fleet.Request(0, 0.0) for _ in range(3)]
    done = answered(requests, clients=1, load_ms=0)
    assert [request.start for request in done] == pytest.approx([0, 1, 2])
