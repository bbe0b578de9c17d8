"""The playground for people who see, point or hear otherwise: axe-core finds nothing at fault."""

from __future__ import annotations

from axe_playwright_python.sync_playwright import Axe


def faults(page):
    """What axe-core finds; of the dark page, what depends on colours."""
    found = Axe().run(page).response["violations"]
    page.emulate_media(color_scheme="dark")
    found += Axe().run(page, options={"runOnly": ["color-contrast"]}).response["violations"]
    page.emulate_media(color_scheme="light")
    return [
        (one["id"], one["impact"], [node["target"] for node in one["nodes"]][:3]) for one in found
    ]


def test_answers_and_sweeps(visit, tiny_url):
    visited = visit(tiny_url)
    page = visited.page
    page.click("[data-tab=chat]")
    visited.set(max_tokens="5")
    visited.send("One")
    page.get_by_role("button", name="Regenerate").click()
    visited.wait()
    page.locator(".answer").nth(1).get_by_role("button", name="Inspect").click()
    page.locator("#inspector table").nth(1).wait_for()
    assert faults(page) == []
    page.locator("#inspector").get_by_role("button", name="Close").click()
    page.locator(".answer").first.get_by_role("button", name="Copy as").click()
    assert faults(page) == []
    page.locator("#copy-dialog").get_by_role("button", name="Close").click()
    page.click("[data-tab=sweep]")
    page.fill("#sweep-prompt", "One")
    page.fill("#sweep-steps", "2")
    page.click("#sweep-run")
    page.wait_for_selector("#plots figure:nth-of-type(3)")
    assert faults(page) == []


def test_cards_and_jobs(visit, fake_url, trainer):
    page = visit(fake_url(admin_key="boss", train_jobs=True)).page
    page.click("[data-tab=cartridges]")
    assert faults(page) == []
    page.click("#make-tab")
    page.wait_for_selector("#key-dialog[open]")
    assert faults(page) == []
    page.fill("#key-input", "boss")
    page.locator("#key-dialog").get_by_role("button", name="Use").click()
    page.fill("#make-prompt", "wait")
    page.fill("#make-id", "mine")
    page.get_by_role("button", name="Train").click()
    page.wait_for_selector("#jobs .card[data-status=running]")
    page.locator("#jobs summary").click()
    page.get_by_text("train: layer 1 of 4").first.wait_for()
    assert faults(page) == []
    page.select_option("#make-kind", "facts")
    assert faults(page) == []
    (trainer / "go").touch()
    page.wait_for_selector("#jobs .card[data-status=finished]")
