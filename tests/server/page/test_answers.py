"""The playground in a browser, on a random model: what it shows is what the API says."""

from __future__ import annotations

import itertools
import math
import re
import subprocess

import httpx
import pytest

from llamacart_server.routes.page import POLICY

PROMPT = "Once upon a time"


@pytest.fixture
def page(visit, tiny_url):
    """A first visit; answers are short and repeatable."""
    visited = visit(tiny_url)
    visited.set(max_tokens="12", seed="3")
    return visited


def alphas(page):
    return page.get_by_label("α of up as a number")


def asked(url, **fields):
    body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 12, "temperature": 0.7, "seed": 3}
    answer = httpx.post(f"{url}/v1/completions", json=body | fields, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"]


def test_a_first_visit(page, tiny_url):
    browser = page.page
    assert browser.locator("#model").inner_text() == "tiny"
    # The model has no chat template of its own, so it is one that continues texts.
    assert browser.locator("[aria-current]").inner_text() == "Completion"
    assert browser.locator(".head h2").all_inner_texts() == ["base", "up 1"]
    page.send(PROMPT)
    names = browser.locator(".answer h3").all_inner_texts()
    assert names == ["base", "up 1"]
    expected = [asked(tiny_url, model=model)[0]["text"] for model in ("tiny", "tiny:up")]
    assert page.texts() == expected
    tinted = [browser.locator(".answer").nth(i).locator(".token").count() for i in range(2)]
    assert tinted[0] == 0 < tinted[1]
    assert page.complaints == []


def test_columns_are_equal_at_alpha_0_and_different_at_the_cartridges_own(page):
    page.send(PROMPT)
    base, up = page.texts()
    assert base != up
    alphas(page.page).fill("0")
    page.send(PROMPT)
    assert page.texts() == [base, up, base, base]
    assert page.page.get_by_label("α of up", exact=True).input_value() == "0"


def test_four_columns_at_most(page):
    browser = page.page
    browser.click("#add-column")
    browser.get_by_label("Add a cartridge to column 3").select_option("warp")
    browser.click("#add-column")
    assert browser.locator("#add-column").is_hidden()
    page.send(PROMPT)
    assert browser.locator(".answer h3").all_inner_texts() == ["base", "up 1", "warp 1", "base"]
    texts = page.texts()
    assert texts[0] == texts[3]
    assert len(set(texts)) == 3
    browser.get_by_label("Remove column 4").click()
    assert browser.locator(".head").count() == 3


def test_the_inspector_shows_what_the_api_says(page, tiny_url):
    browser = page.page
    page.send(PROMPT)
    (choice,) = asked(tiny_url, model="tiny:up", telemetry="tokens", logprobs=8)
    token = choice["telemetry"]["tokens"][0]
    answer = browser.locator(".answer").nth(1)
    answer.get_by_role("button", name="Inspect").click()
    inspector = browser.locator("#inspector")
    inspector.locator("table").nth(1).wait_for()
    bars = inspector.locator(".bar").evaluate_all(
        "all => all.map(e => [e.dataset.x, Number(e.dataset.y)])"
    )
    assert dict(bars) == pytest.approx(token["layers"], rel=1e-4)
    assert f"id {token['id']}" in inspector.inner_text()
    steered, base = (inspector.locator("table").nth(i).inner_text() for i in (0, 1))
    assert steered.startswith("up 1")
    assert base.startswith("base")
    assert steered.split("\n", 1)[1] != base.split("\n", 1)[1]
    ids = httpx.post(f"{tiny_url}/tokenize", json={"prompt": PROMPT}).json()["tokens"]
    (other,) = asked(tiny_url, prompt=[*ids, token["id"]], max_tokens=0, echo=True, logprobs=0)
    chance = 100 * math.exp(other["logprobs"]["token_logprobs"][-1])
    said = float(re.search(r"said with <?([0-9.]+) %", base)[1])
    assert said == pytest.approx(chance, abs=0.1)


def test_the_inspector_by_keyboard(page):
    browser = page.page
    page.send(PROMPT)
    button = browser.locator(".answer").nth(1).get_by_role("button", name="Inspect")
    button.focus()
    browser.keyboard.press("Enter")
    inspector = browser.locator("#inspector")
    assert "1 of 12" in inspector.inner_text()
    inspector.get_by_role("button", name="Next").focus()
    browser.keyboard.press("Enter")
    assert "2 of 12" in inspector.inner_text()
    assert browser.locator(".text .open").count() == 1
    browser.keyboard.press("Escape")
    assert inspector.is_hidden()
    assert button.evaluate("e => e === document.activeElement")


def test_a_sweep_has_the_points_that_the_api_gives(page, tiny_url):
    browser = page.page
    browser.click("[data-tab=sweep]")
    browser.fill("#sweep-prompt", PROMPT)
    browser.select_option("#sweep-cartridge", "up")
    for name, value in {"from": "-1", "to": "1", "steps": "3", "target": "xy"}.items():
        browser.fill(f"#sweep-{name}", value)
    browser.click("#sweep-run")
    browser.wait_for_selector("#plots figure:nth-of-type(4)")
    points = browser.locator("#plots figure").evaluate_all(
        "all => all.map(f => [...f.querySelectorAll('circle')]"
        ".map(c => [Number(c.dataset.x), Number(c.dataset.y)]))"
    )
    doses, pairs, losses, chances = ([y for _, y in plot] for plot in points)
    assert [[x for x, _ in plot] for plot in points] == [[-1, 0, 1]] * 4
    prompt = httpx.post(f"{tiny_url}/tokenize", json={"prompt": PROMPT}).json()["tokens"]
    target = httpx.post(f"{tiny_url}/tokenize", json={"content": "xy"}).json()["tokens"]
    for i, alpha in enumerate((-1, 0, 1)):
        model = f"tiny:up@{alpha}"
        (choice,) = asked(tiny_url, model=model, telemetry="tokens")
        tokens = choice["telemetry"]["tokens"]
        own = [token["dose"] or 0 for token in tokens]
        assert doses[i] == pytest.approx(sum(own) / len(own), rel=1e-4)
        ids = [token["id"] for token in tokens]
        bigrams = list(itertools.pairwise(ids))
        assert pairs[i] == pytest.approx(len(set(bigrams)) / len(bigrams))
        echo = {"max_tokens": 0, "echo": True, "logprobs": 0}
        (scored,) = asked(tiny_url, prompt=[*prompt, *ids], **echo)
        last = scored["logprobs"]["token_logprobs"][-len(ids) :]
        assert losses[i] == pytest.approx(-sum(last) / len(ids), rel=1e-4)
        (scored,) = asked(tiny_url, model=model, prompt=[*prompt, *target], **echo)
        chance = math.exp(sum(scored["logprobs"]["token_logprobs"][-len(target) :]))
        assert chances[i] == pytest.approx(chance, rel=1e-3)
        shown = browser.locator(f"#sweep-texts [data-alpha='{alpha}'] .text")
        assert shown.evaluate("e => e.textContent") == choice["text"]
    assert page.complaints == []


@pytest.mark.parametrize("place", ["all", "generated"])
def test_what_is_copied_gives_the_same_answer(page, place, capsys, monkeypatch):
    browser = page.page
    monkeypatch.delenv("LLAMACART_API_KEY", raising=False)
    alphas(browser).fill("0.5")
    browser.get_by_label("Where up acts").select_option(place)
    page.send('It\'s a "trap", naïve 🦙')
    text = page.texts()[1]
    browser.locator(".answer").nth(1).get_by_role("button", name="Copy as").click()
    forms = {
        name: browser.locator(f"[data-form='{name}'] pre").evaluate("e => e.textContent")
        for name in browser.locator("[data-form]").evaluate_all(
            "all => all.map(e => e.dataset.form)"
        )
    }
    if place == "all":
        assert forms["Model id"] == "tiny:up@0.5"
    else:
        assert "Model id" not in forms, "a model id cannot say where a cartridge acts"
    exec(compile(forms["Python"], "copied", "exec"), {})  # noqa: S102
    assert capsys.readouterr().out.removesuffix("\n") == text
    done = subprocess.run(["bash", "-c", forms["curl"]], capture_output=True, check=True)  # noqa: S603, S607
    answer = httpx.Response(200, content=done.stdout).json()
    assert answer["choices"][0]["text"] == text


def test_a_conversation(page):
    browser = page.page
    browser.click("[data-tab=chat]")
    page.send("One")
    page.send("Two")
    first = page.texts()
    assert len(first) == 4

    def said_now():
        return browser.locator(".said .text").all_inner_texts()

    assert said_now() == ["One", "Two"]
    # The second answer was given to the whole conversation.
    second = browser.locator(".said").nth(1)
    second.get_by_role("button", name="Regenerate").click()
    page.wait()
    assert page.texts() == first
    browser.locator(".said").nth(0).get_by_role("button", name="Edit").click()
    assert browser.input_value("#prompt") == "One"
    page.send("Another")
    assert said_now() == ["Another"]
    assert len(page.texts()) == 2
    # What was there is another branch, with what followed it.
    versions = browser.locator(".said").nth(0).get_by_label("Versions of this message")
    assert versions.inner_text().split() == ["‹", "2", "of", "2", "›"]
    versions.get_by_label("Earlier version").click()
    assert said_now() == ["One", "Two"]
    assert page.texts() == first
    assert second.get_by_label("Later version").is_disabled()
    assert second.get_by_label("Earlier version").is_enabled()
    page.send("Three")
    assert said_now() == ["One", "Two", "Three"]
    versions.get_by_label("Later version").click()
    assert said_now() == ["Another"]
    browser.click("#clear")
    assert page.texts() == []


def test_the_policy_is_in_force(page):
    """What a model says could not become HTML even if the page tried."""
    browser = page.page
    tried = """() => {
      try { document.body.innerHTML = '<b>x</b>'; return 'done'; } catch (e) { return e.name; }
    }"""
    assert browser.evaluate(tried) == "TypeError"
    response = browser.goto(browser.url)
    assert response.headers["content-security-policy"] == POLICY
