"""The cards of the playground in a browser: what a file says of its cartridge, whatever it says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llamacart_server.library.library import CartridgeLibrary

EVALUATION = {
    "recipe": "pirate",
    "behaviour": "share of <b>pirates</b>",
    "objective": "NLL",
    "tested_on": "15 prompts",
    "chosen_on": "5 prompts",
    "alpha": 1.0,
    "test": {"behaviour": [0.75, 0.5, 0.9], "nll": [2.5, 2, 3], "odd": [1, 1, 1]},
    "unsteered": {"behaviour": [0, 0, 0.2]},
    "points": [
        {"alpha": 0.7, "frontier": True, "figures": {"behaviour": 0.5, "nll": 2.1}},
        {"alpha": 1.0, "frontier": True, "figures": {"behaviour": 0.8, "nll": 2.4}},
        {"alpha": 1.3, "frontier": False, "figures": {"behaviour": 0.7, "nll": 2.6}},
    ],
    "created": "2026-01-02T03:04:05Z",
}


HOSTILE = {
    "number": {"layers": 7, "tune": 7, "evaluation": 7, "pairs": {"a": 1}},
    "list": {"layers": [None, [], "x"], "tune": [1], "evaluation": [1]},
    "empty": {"layers": {}, "tune": {"trials": []}, "evaluation": {"points": []}},
    "deep": {
        "layers": [{"layer": "<b>", "r2": 1}],
        "tune": {"runners_up": {"map": 1}},
        "evaluation": EVALUATION | {"points": [{"figures": None}], "test": {"nll": 3}},
    },
}
"""Figures that a file may hold and no llamacart writes."""


@pytest.fixture
def library(cartridge_named):
    """A measured cartridge, one that waits, and some whose files hold anything."""
    plain = cartridge_named("measured", 0.8)

    def called(name, **diagnostics):
        metadata = replace(plain.metadata, name=name, diagnostics=diagnostics)
        return replace(plain, metadata=metadata)

    tune = {"objective": "NLL", "trials": 12, "chosen": {"settings": {"K": 8}, "cost": 1.5}}
    return CartridgeLibrary(
        [
            called("measured", evaluation=EVALUATION, tune=tune, layers=[{"layer": 1, "r2": 0.5}]),
            replace(called("waiting"), when=tuple(f"Subject {i}" for i in range(10))),
            *(called(name, **diagnostics) for name, diagnostics in HOSTILE.items()),
        ]
    )


def test_what_files_say_is_on_the_cards(visit, fake_url):
    visited = visit(fake_url(weights_hash="f00d" * 16))
    page = visited.page
    page.click("[data-tab=cartridges]")
    card = page.get_by_role("article", name="measured")
    assert card.locator(".bar").count() == 1
    card.get_by_text("Measured: behaviour 0.75 at α 1").click()
    for width in (1280, 360):
        page.set_viewport_size({"width": width, "height": 800})
        assert card.evaluate("e => e.scrollWidth - e.clientWidth") <= 0
        assert page.evaluate("() => document.documentElement.scrollWidth - innerWidth") <= 0
    plots = card.locator(".evaluation figure").evaluate_all(
        "all => all.map(f => [...f.querySelectorAll('circle')]"
        ".map(c => [Number(c.dataset.x), Number(c.dataset.y), c.classList.contains('hollow')]))"
    )
    over_alpha, cost, frontier = plots
    assert over_alpha == [[0.7, 0.5, False], [1, 0.8, False], [1.3, 0.7, False]]
    assert cost == [[0.7, 2.1, False], [1, 2.4, False], [1.3, 2.6, False]]
    assert frontier == [[2.1, 0.5, False], [2.4, 0.8, False], [2.6, 0.7, True]]
    rows = card.locator(".evaluation tbody tr").all_inner_texts()
    assert [row.split("\t") for row in rows] == [
        ["behaviour", "0.75 0.5 to 0.9", "0 0 to 0.2"],
        ["NLL a token", "2.5 2 to 3", "–"],
    ]
    assert "share of <b>pirates</b>" in card.inner_text()
    card.get_by_text("Search: 12 trials, NLL").click()
    assert "K 8" in card.inner_text()
    assert "the model\nhas other weights: f00df00df00d" in card.inner_text()
    waits = page.get_by_role("article", name="waiting").locator("dd").nth(4)
    assert waits.inner_text().startswith("Subject 0, Subject 1, ")
    assert waits.inner_text().endswith("Subject 7 and 2 more")
    for name in HOSTILE:
        assert page.get_by_role("article", name=name).get_by_role("button").count() == 2
    assert visited.complaints == []
