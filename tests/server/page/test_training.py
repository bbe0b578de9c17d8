"""The playground in a browser, all the way: a fact is written in the page, learnt, and known."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from llamacart_server.commands import serve as cli
from llamacart_server.settings import load_settings

TRAINING_MS = 600_000
"""It takes a quarter of a minute where nobody else computes."""


@pytest.mark.model
def test_a_fact_becomes_a_cartridge_that_knows_it(visit, live, tmp_path):
    folder = tmp_path / "cartridges"
    folder.mkdir()
    settings = load_settings(
        model="demo", cartridges=folder, ctx=512, threads=2, admin_key="boss", train_jobs=True
    )
    with ExitStack() as owned:
        app, _, _ = cli.build(settings, owned)
        visited = visit(owned.enter_context(live(app)))
        page = visited.page
        assert page.locator(".head h2").all_inner_texts() == ["base"]
        page.click("#make-tab")
        page.wait_for_selector("#key-dialog[open]")
        page.fill("#key-input", "boss")
        page.locator("#key-dialog").get_by_role("button", name="Use").click()
        page.select_option("#make-kind", "facts")
        page.fill("#make-id", "velmora")
        page.fill("#make-facts", "Velmora | {} was founded in | 1962")
        page.get_by_role("button", name="Train").click()
        page.wait_for_selector(
            "#jobs .card:not([data-status=queued], [data-status=running])", timeout=TRAINING_MS
        )
        assert page.locator("#jobs .error").inner_text() == ""
        page.get_by_text("velmora: made.").wait_for()
        page.click("[data-tab=cartridges]")
        card = page.get_by_role("article", name="velmora")
        assert "waits for" in card.inner_text()
        card.get_by_role("button", name="Use in a new column").click()
        visited.set(max_tokens="8", temperature="0")
        visited.send("Velmora was founded in")
        base, taught = visited.texts()
        assert taught.strip().startswith("1962")
        assert not base.strip().startswith("1962")
        assert (folder / "velmora.gguf").is_file()
        # The browser's own words for the answer that had the key asked for.
        assert [said for said in visited.complaints if "401" not in said] == []
