"""The playground in a browser, on servers that do as they are told: keys, stops and troubles."""

from __future__ import annotations

import json

import pytest

from llamacart.file.writer import write_cartridge
from llamacart_server.engine.request import TokenEvent


@pytest.fixture
def page(visit, fake_url):
    return visit(fake_url())


def test_an_answer_comes_in_pieces_and_stop_frees_its_row(page, engine, until):
    browser = page.page
    engine.hangs = True
    engine.say("hello", end=False)
    browser.fill("#prompt", "a")
    browser.click("#send")
    browser.wait_for_function(
        "() => [...document.querySelectorAll('.answer .text')].map(e => e.textContent).join()"
        " === 'hello,hello'"
    )
    assert browser.locator("#send").is_disabled()
    # Both columns ask at once, and either may reach the server first.
    asked = zip(engine.requests, engine.generations, strict=True)
    base, steered = (answer for _, answer in sorted(asked, key=lambda one: len(one[0].doses)))
    browser.locator(".answer").first.get_by_role("button", name="Stop").click()
    until(base.cancelled.is_set)
    assert not steered.cancelled.is_set()
    browser.click("#stop-all")
    until(steered.cancelled.is_set)
    page.wait()
    states = browser.locator(".answer").evaluate_all("all => all.map(e => e.dataset.status)")
    assert states == ["stopped", "stopped"]
    assert page.texts() == ["hello", "hello"]


def test_a_slider_changes_the_next_answer_alone(page, engine):
    browser = page.page
    slider = browser.get_by_label("α of formal", exact=True)
    page.send("a")
    slider.fill("0.45")
    assert browser.get_by_label("α of formal as a number").input_value() == "0.45"
    page.send("b")
    steered = [request for request in engine.requests if request.doses]
    assert [request.doses[0].dose.alpha for request in steered] == [1.0, 0.45]
    assert len({request.sampling.seed for request in engine.requests[:2]}) == 1
    assert browser.locator(".answer h3").all_inner_texts() == [
        "base", "formal 1", "base", "formal 0.45"
    ]  # fmt: skip


def test_nothing_is_measured_where_that_is_off(page, engine):
    page.send("a")
    assert all(request.token_doses for request in engine.requests)
    page.page.click("#settings summary")
    page.page.uncheck("#measure")
    page.send("a")
    assert not any(r.token_doses or r.logprobs is not None for r in engine.requests[2:])
    assert page.texts() == ["hello"] * 4


def test_settings_reach_the_engine(page, engine):
    page.page.click("[data-tab=chat]")
    given = {"temperature": "0.3", "top_p": "0.9", "top_k": "7", "min_p": "0.1", "seed": "11"}
    page.set(**given, max_tokens="9", system="Be brief.", stop="l")
    page.send("a")
    request = engine.requests[-1]
    assert {name: getattr(request.sampling, name) for name in given} == {
        name: json.loads(value) for name, value in given.items()
    }
    assert request.max_tokens == 9
    assert page.texts() == ["he", "he"]


@pytest.mark.parametrize(
    "text",
    [
        "<img src=x onerror=alert(1)> & <b>no</b>",
        "שלום العربية 👩‍👩‍👧‍👦 🦙 x\n    code();",
    ],
)
def test_a_text_stays_a_text(page, engine, text):
    engine.script = [TokenEvent(10 + byte, doses=(0.5, 0.25)) for byte in text.encode()] + [
        TokenEvent(None, "stop")
    ]
    page.send(text)
    assert page.texts() == [text, text]
    assert page.page.locator(".said .text").evaluate("e => e.textContent") == text
    assert page.page.locator(".turn img, .turn b").count() == 0
    tinted = page.page.locator(".answer").nth(1).locator(".token")
    # One for each character, however many bytes and so tokens it has.
    assert tinted.evaluate_all("all => all.map(e => e.textContent)") == list(text)


def test_a_key_is_asked_for_until_it_is_right(visit, fake_url, engine):
    url = fake_url(api_key=["right"])
    visited = visit(url, waits_for="#key-dialog[open]")
    browser = visited.page
    needed = "The server needs an API key."
    for key, reason in (("wrong", needed), ("right", f"That key is not the right one. {needed}")):
        browser.get_by_text(reason, exact=True).wait_for()
        browser.fill("#key-input", key)
        browser.locator("#key-dialog").get_by_role("button", name="Use").click()
    browser.wait_for_selector(".head")
    visited.send("a")
    assert visited.texts() == ["hello", "hello"]
    browser.reload()
    browser.wait_for_selector(".head")
    stored = browser.evaluate("() => [localStorage.length, document.cookie, location.href]")
    assert stored == [0, "", f"{url}/"]
    other = visit(url, waits_for="#key-dialog[open]")
    other.page.locator("#key-dialog").get_by_role("button", name="Cancel").click()
    other.page.get_by_text("a valid API key is needed").first.wait_for()


def test_a_key_that_no_header_holds_is_not_taken(visit, fake_url):
    """Every request with it would fail before it was sent, as if the server were gone."""
    browser = visit(fake_url(api_key=["right"]), waits_for="#key-dialog[open]").page
    browser.fill("#key-input", "schlüssel→")
    browser.locator("#key-dialog").get_by_role("button", name="Use").click()
    assert browser.locator("#key-input").evaluate("e => e.validity.patternMismatch")
    assert browser.locator("#key-dialog").is_visible()
    assert browser.locator("#gone").is_hidden()
    browser.fill("#key-input", "right")
    browser.locator("#key-dialog").get_by_role("button", name="Use").click()
    browser.wait_for_selector(".head")


def test_the_server_goes_and_comes_back(page, engine):
    browser = page.page
    browser.context.set_offline(True)
    page.send("a")
    assert browser.locator("#gone").is_visible()
    assert browser.locator(".answer .error").first.inner_text() == "the server does not answer"
    browser.context.set_offline(False)
    browser.wait_for_selector("#gone", state="hidden")
    page.send("b")
    assert page.texts() == ["", "", "hello", "hello"]


def test_an_answer_that_breaks_off_keeps_what_came(page, engine):
    """A proxy, or the server, cuts it in the middle of an event."""
    event = json.dumps({"choices": [{"text": "hel", "finish_reason": None}]})
    page.page.route(
        "**/v1/completions",
        lambda route: route.fulfill(
            content_type="text/event-stream", body=f"data: {event}\n\ndata: {event[:20]}"
        ),
    )
    page.send("a")
    assert page.texts() == ["hel", "hel"]
    errors = page.page.locator(".answer .error:visible").all_inner_texts()
    assert errors == ["the server broke off", "the server broke off"]
    page.page.unroute("**/v1/completions")
    page.send("b")
    assert page.texts()[2:] == ["hello", "hello"]


def test_an_error_of_the_server_is_told_in_its_words(page, engine):
    engine.refusals = [None, ValueError("not to be told")]
    page.send("a")
    errors = page.page.locator(".answer .error:visible")
    assert errors.count() == 1
    assert "not to be told" not in errors.inner_text()


def test_cartridges_are_added_and_removed(visit, fake_url, cartridge_named, tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()
    good, broken = tmp_path / "mine.gguf", tmp_path / "broken.gguf"
    write_cartridge(cartridge_named("mine"), good)
    broken.write_bytes(good.read_bytes()[:200])
    visited = visit(fake_url(admin_key="boss", cartridges=folder))
    browser = visited.page
    browser.on("dialog", lambda dialog: dialog.accept())
    browser.click("[data-tab=cartridges]")
    card = browser.locator(".card")
    assert card.locator("h2").all_inner_texts() == ["formal", "french"]
    assert "About formal." in card.first.inner_text()

    browser.set_input_files("#upload-file", broken)
    browser.get_by_role("button", name="Upload").click()
    browser.wait_for_selector("#key-dialog[open]")
    browser.fill("#key-input", "boss")
    browser.locator("#key-dialog").get_by_role("button", name="Use").click()
    browser.wait_for_selector("#status.error")
    assert browser.locator("#status").inner_text().startswith("broken.gguf: ")
    assert card.count() == 2

    browser.set_input_files("#upload-file", good)
    browser.get_by_role("button", name="Upload").click()
    browser.get_by_text("mine is there.").wait_for()
    assert card.locator("h2").all_inner_texts() == ["formal", "french", "mine"]
    card.nth(2).get_by_role("button", name="Use in a new column").click()
    assert browser.locator(".head h2").all_inner_texts()[-1] == "mine 1"
    browser.click("[data-tab=cartridges]")
    card.nth(2).get_by_role("button", name="Remove").click()
    browser.get_by_text("mine is removed.").wait_for()
    assert card.count() == 2
    browser.click("[data-tab=chat]")
    assert browser.locator(".head h2").all_inner_texts()[-1] == "base"


def test_without_an_admin_key_nobody_uploads(page, cartridge_named, tmp_path):
    write_cartridge(cartridge_named("mine"), tmp_path / "mine.gguf")
    browser = page.page
    browser.click("[data-tab=cartridges]")
    browser.set_input_files("#upload-file", tmp_path / "mine.gguf")
    browser.get_by_role("button", name="Upload").click()
    browser.wait_for_selector("#status.error")
    assert "administration is off" in browser.locator("#status").inner_text()


def test_an_address_holds_the_state(page, visit):
    browser = page.page
    browser.click("[data-tab=chat]")
    page.set(seed="5", system="Sei kurz, 🦙.")
    browser.get_by_label("α of formal as a number").fill("0.3")
    browser.get_by_label("Where formal acts").select_option("generated")
    browser.fill("#prompt", "Hallo")
    browser.click("#share")
    browser.wait_for_function("() => location.hash.startsWith('#s=')")
    other = visit(browser.url).page
    assert other.locator("[aria-current]").inner_text() == "Chat"
    assert other.locator(".head h2").all_inner_texts() == ["base", "formal 0.3 (generated)"]
    fields = [other.input_value(f"#{name}") for name in ("seed", "system", "prompt")]
    assert fields == ["5", "Sei kurz, 🦙.", "Hallo"]


def test_an_address_that_makes_no_sense_is_no_harm(visit, fake_url):
    """Nothing, no base64, `null`, and columns that are none."""
    url = fake_url()
    visited = visit(url)
    for fragment in ("#s=", "#s=%%%", "#s=bnVsbA", "#s=eyJjb2x1bW5zIjpbMSx7fV19"):
        visited.page.goto(f"{url}/{fragment}")
        visited.page.reload()
        visited.page.wait_for_selector(".head")
        visited.send("a")
        assert visited.texts() == ["hello", "hello"]
        assert visited.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone(visit, fake_url, scheme):
    phone = visit(
        fake_url(), viewport={"width": 360, "height": 740}, has_touch=True, color_scheme=scheme
    )
    browser = phone.page
    phone.send("a" * 300)
    for tab in ("chat", "complete", "sweep", "cartridges"):
        browser.click(f"[data-tab={tab}]")
        wide = "() => document.documentElement.scrollWidth - innerWidth"
        assert browser.evaluate(wide) <= 0, tab
    lightness = "() => getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]"
    assert (int(browser.evaluate(lightness)) < 128) == (scheme == "dark")


def test_every_control_has_a_name(page):
    page.send("a")
    nameless = """() => [...document.querySelectorAll('button, input, select, textarea, summary')]
      .filter(e => !(e.getAttribute('aria-label') || e.labels?.length || e.textContent.trim()))
      .map(e => e.outerHTML)"""
    assert page.page.evaluate(nameless) == []
