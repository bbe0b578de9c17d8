"""The playground in a browser: a cartridge is made in the page."""

from __future__ import annotations

import pytest

JOB = "#jobs .card"


@pytest.fixture
def page(visit, fake_url, trainer):
    """The view on a server that trains, its key given."""
    visited = visit(fake_url(admin_key="boss", train_jobs=True))
    visited.page.click("#make-tab")
    visited.page.wait_for_selector("#key-dialog[open]")
    visited.page.fill("#key-input", "boss")
    visited.page.locator("#key-dialog").get_by_role("button", name="Use").click()
    return visited.page


def test_there_is_nothing_to_make_where_the_server_does_not_train(visit, fake_url):
    page = visit(fake_url()).page
    assert page.locator("#make-tab").is_hidden()


def test_a_prompt_becomes_a_cartridge(page, trainer, engine):
    page.fill("#make-prompt", "wait")
    page.click("#make-try")
    previews = page.locator("#make-preview .text")
    page.wait_for_function(
        "() => [...document.querySelectorAll('#make-preview .text')]"
        ".every(e => e.textContent === 'hello')"
    )
    assert previews.count() == 2
    without, behind = sorted(len(request.prompt) for request in engine.requests)
    assert without < behind

    page.fill("#make-id", "mine")
    page.get_by_role("button", name="Train").click()
    page.get_by_text("train: layer 1 of 4, 25 %").first.wait_for()
    assert page.locator(f"{JOB} progress").evaluate("e => e.value") == 0.25
    page.reload()  # the job goes on
    page.wait_for_selector(".head")
    page.click("#make-tab")
    page.wait_for_selector(f"{JOB}[data-status=running]")
    (trainer / "go").touch()
    page.wait_for_selector(f"{JOB}[data-status=finished]")
    page.get_by_text("mine: made.").wait_for()
    page.click("[data-tab=cartridges]")
    assert "mine" in page.locator(".card h2").all_inner_texts()
    page.click("[data-tab=complete]")
    assert "mine" in page.get_by_label("Add a cartridge to column 1").inner_text()


def test_a_job_that_fails_or_is_cancelled_says_so(page, trainer, tmp_path):
    page.select_option("#make-kind", "pairs")
    file = tmp_path / "pairs.jsonl"
    file.write_text("fail", "utf-8")
    page.set_input_files("#make-file", file)
    page.wait_for_function("() => document.getElementById('make-pairs').value === 'fail'")
    page.fill("#make-id", "mine")
    page.get_by_role("button", name="Train").click()
    page.wait_for_selector(f"{JOB}[data-status=failed]")
    assert "line 1: no 'target'" in page.locator(f"{JOB} .error").inner_text()
    page.fill("#make-pairs", "wait")
    page.get_by_role("button", name="Train").click()
    page.locator(f"{JOB}[data-status=running]").get_by_role("button", name="Cancel").click()
    page.wait_for_selector(f"{JOB}[data-status=cancelled]")
    assert page.locator(JOB).count() == 2
