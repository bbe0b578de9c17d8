"""The playground in a browser: a cartridge is made in the page."""

from __future__ import annotations

import json

import pytest

JOB = "#jobs .card"


@pytest.fixture
def page(visit, fake_url, trainer):
    """The view on a server that trains, its key given."""
    visited = visit(fake_url(admin_key="boss", train_jobs=True))
    visited.page.click("#make-tab")
    visited.page.get_by_text("The server needs its admin key.", exact=True).wait_for()
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
    page.set_input_files("#make-pairs-file", file)
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
    log = page.locator(JOB).last
    log.locator("summary").click()
    log.get_by_text("train: layer 1 of 4, 25 %, 0:09 left\nerror: pairs.jsonl").wait_for()


def test_facts_are_written_as_lines(page, trainer):
    page.select_option("#make-kind", "facts")
    page.fill("#make-id", "mine")
    page.fill(
        "#make-facts", "Velmora | {} was founded in | 1962\nVelmora | It was founded in | 1962"
    )
    page.get_by_role("button", name="Train").click()
    page.get_by_text('Line 2: "It was founded in" must hold {} once').wait_for()
    line = '{"prompt": "{} is a | b", "subject": "Örsk", "object": "x"}'
    page.fill("#make-facts", f"Velmora |  {{}} was founded in | 1962\n\n{line}\n")
    with page.expect_request("**/v1/train_jobs") as sent:
        page.get_by_role("button", name="Train").click()
    facts = [json.loads(line) for line in sent.value.post_data_json["facts"].split("\n")]
    assert facts == [
        {"subject": "Velmora", "prompt": "{} was founded in", "object": "1962"},
        {"subject": "Örsk", "prompt": "{} is a | b", "object": "x"},
    ]
    page.wait_for_selector(f"{JOB}[data-status=finished]")
    assert "mine, from facts" in page.locator(f"{JOB} h2").inner_text()


def test_a_cartridge_appears_wherever_one_is_on_the_page(page, trainer):
    page.fill("#make-prompt", "wait")
    page.fill("#make-id", "mine")
    page.get_by_role("button", name="Train").click()
    page.wait_for_selector(f"{JOB}[data-status=running]")
    page.click("[data-tab=complete]")
    (trainer / "go").touch()
    page.get_by_text("mine: made.").wait_for()
    assert "mine" in page.get_by_label("Add a cartridge to column 1").inner_text()
    # The next one would take its place, which is asked first.
    asked = []
    page.on("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
    page.click("#make-tab")
    page.get_by_role("button", name="Train").click()
    page.wait_for_function("() => true")
    assert asked == ["There is a cartridge mine already. Replace it?"]
    assert page.locator(JOB).count() == 1


def test_a_file_that_is_no_text_is_told(page, tmp_path):
    page.select_option("#make-kind", "pairs")
    file = tmp_path / "pairs.jsonl"
    file.write_bytes(b"\xff\xfe{")
    page.set_input_files("#make-pairs-file", file)
    page.get_by_text("pairs.jsonl is no text in UTF-8.").wait_for()
    assert page.input_value("#make-pairs") == ""


def test_two_rounds_of_asking_do_not_become_more(page, trainer):
    page.fill("#make-prompt", "wait")
    page.fill("#make-id", "mine")
    page.get_by_role("button", name="Train").click()
    page.wait_for_selector(f"{JOB}[data-status=running]")
    held = []
    page.route("**/v1/train_jobs", lambda route: held.append(route))

    def hold(count):
        while len(held) < count:
            page.wait_for_timeout(20)

    # Each visit begins a round of its own, which waits for an answer; the last one alone goes on.
    for count in (1, 2, 3):
        page.click("[data-tab=chat]")
        page.click("#make-tab")
        hold(count)
    for route in held:
        route.continue_()
    held.clear()
    hold(1)
    page.wait_for_timeout(300)  # the others would come at the same time
    assert len(held) == 1
    page.unroute("**/v1/train_jobs")  # which lets it go on
    (trainer / "go").touch()
    page.wait_for_selector(f"{JOB}[data-status=finished]")
