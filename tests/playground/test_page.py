"""The page in a real headless Chromium, before doubles: what a real server cannot be made to do on demand."""

from __future__ import annotations

import re

import pytest

from domino_sglang.playground.app import create_app
from tests.support.browser import chromium
from tests.support.sglang_double import ACCEPTED, Double


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as context:
        yield context


@pytest.fixture
def page(browser):
    opened = browser.new_page()
    opened.errors = []
    opened.on("pageerror", lambda error: opened.errors.append(str(error)))
    yield opened
    opened.close()
    assert opened.errors == []


@pytest.fixture
def chat(page, playground):
    page.goto(playground.url)
    page.wait_for_selector("#servers .ok")
    return page


def ask(page, text: str) -> None:
    page.fill("#prompt", text)
    page.press("#prompt", "Enter")


def status(page) -> str:
    return page.inner_text("#status")


def wait_for_status(page, words: str) -> None:
    page.wait_for_function("words => document.getElementById('status').textContent.includes(words)", arg=words)


def test_each_run_is_one_step(chat):
    ask(chat, "Hello")
    wait_for_status(chat, "40 tokens in 10 steps")
    runs = chat.locator(".run").evaluate_all("runs => runs.map(run => [run.className, Number(run.dataset.tokens)])")
    assert [tokens for _, tokens in runs[:10]] == [1, *ACCEPTED[:9]]
    classes = [name.split()[1] for name, _ in runs]
    # The prefill's token, then 1, 4, 2, 8 tokens of a block of 8.
    assert classes[:5] == ["prefill", "s0", "s3", "s1", "s5"]
    assert chat.locator(".strip i").count() == 10
    number = lambda name: chat.inner_text(f"dd[data-number='{name}']")  # noqa: E731
    assert (number("tokens"), number("steps"), number("acceptance length")) == ("40", "10", "3.90")
    assert float(number("tokens/s")) > 0
    assert "".join(chat.locator(".run").all_text_contents()).startswith("A chain of dominoes")
    assert chat.locator(".strip").get_attribute("aria-label").startswith("Bar chart: tokens of each of 10 steps")


def test_a_first_token_that_arrives_with_a_step_is_no_step(chat):
    """A busy server sends what the prefill gave and a step's tokens in one chunk."""
    ask(chat, "together")
    wait_for_status(chat, "40 tokens in 10 steps")
    assert chat.locator(".run").first.get_attribute("data-tokens") == "2"
    assert chat.inner_text("dd[data-number='acceptance length']") == "3.90"


def test_keyboard_alone(chat, double):
    """Typing lands in the message at once; Tab reaches every control; Enter sends; Shift+Enter does not."""
    chat.keyboard.type("one")
    chat.keyboard.press("Shift+Enter")
    chat.keyboard.type("two")
    chat.keyboard.press("Enter")
    wait_for_status(chat, "40 tokens")
    assert double.chats[-1]["messages"][-1]["content"] == "one\ntwo"
    assert chat.evaluate("document.activeElement.id") == "prompt"
    reached = []
    for _ in range(7):
        chat.keyboard.press("Tab")
        reached.append(chat.evaluate("document.activeElement.id"))
        outline = chat.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none" or not reached[-1], f"no visible focus on {reached[-1]}"
    assert reached[:6] == ["send", "settings_head", "temperature", "max_tokens", "thinking", "counts"]
    chat.keyboard.press("Shift+Tab")


def test_escape_stops_and_the_partial_answer_stays(serve, page):
    double = Double(tokens=300, pause_s=0.1)
    page.goto(serve(create_app([serve(double.app).url])).url)
    page.wait_for_selector("#servers .ok")
    ask(page, "Hello")
    page.wait_for_selector(".run")
    assert page.is_disabled("#send") and page.is_enabled("#stop")
    page.keyboard.press("Escape")
    page.wait_for_selector("text=Stopped.")
    assert page.is_enabled("#send") and page.is_disabled("#stop")
    ask(page, "And then?")
    page.wait_for_selector(".turn:nth-of-type(2) .run")
    roles = [message["role"] for message in double.chats[-1]["messages"]]
    assert roles == ["user", "assistant", "user"]
    page.keyboard.press("Escape")


def test_a_slow_stream_says_so_and_goes_on(chat):
    ask(chat, "stall")
    wait_for_status(chat, "Slow: still waiting for DOMINO")
    assert re.search(r"Slow: nothing from the server for \d s", chat.inner_text(".note.slow"))
    wait_for_status(chat, "40 tokens in 10 steps")
    assert chat.is_hidden(".note.slow")


@pytest.mark.parametrize(
    ("prompt", "words"),
    [("too long", "Request refused: the prompt is longer"), ("full house", "Server full: The request queue is full")],
)
def test_a_refused_request_says_why_and_the_next_one_works(chat, double, prompt, words):
    ask(chat, prompt)
    chat.wait_for_selector(".note.bad[role=alert]")
    assert words in chat.inner_text(".note.bad")
    if "too long" in prompt:
        assert chat.input_value("#prompt") == prompt
    ask(chat, "Hello")
    wait_for_status(chat, "40 tokens")
    assert [message["content"] for message in double.chats[-1]["messages"]] == ["Hello"]


def test_a_setting_out_of_range_is_refused_by_the_page(chat, double):
    chat.fill("#max_tokens", "0")
    ask(chat, "Hello")
    assert not chat.evaluate("document.getElementById('composer').checkValidity()")
    assert double.requests == []


def test_a_server_lost_in_mid_answer(chat):
    ask(chat, "die")
    chat.wait_for_selector(".note.bad")
    assert re.match(
        r"Server lost after \d+ tokens?: the server at .* broke off the connection", chat.inner_text(".note.bad")
    )
    assert chat.locator(".run").count() > 1
    assert "the question is kept" in status(chat)


def test_a_lost_server_comes_back(chat, server):
    server.stop()
    ask(chat, "Hello")
    chat.wait_for_selector(".note.bad")
    chat.wait_for_selector("#servers .lost")
    assert "cannot reach the server" in chat.inner_text("#servers")
    server.start()
    chat.wait_for_selector("#servers .ok")
    wait_for_status(chat, "The server answers again")
    chat.click("text=Ask again")
    wait_for_status(chat, "40 tokens")
    assert chat.locator(".turn").count() == 1


def test_a_lost_playground_says_so(chat, playground):
    playground.stop()
    ask(chat, "Hello")
    chat.wait_for_selector(".note.bad")
    assert "start domino-sglang playground again" in chat.inner_text(".note.bad")


def test_what_a_model_writes_is_text_and_never_markup(chat):
    ask(chat, "markup")
    wait_for_status(chat, "40 tokens")
    assert "<img src=x" in chat.inner_text(".text")
    assert chat.locator(".text img, .text b").count() == 0
    assert chat.title() == "Domino playground"


@pytest.fixture
def racers(serve, page):
    """Opens the page before DOMINO and plain decoding; returns both doubles."""

    def start() -> tuple[Double, Double]:
        doubles = Double(pause_s=0.03), Double(algorithm=None, pause_s=0.03)
        page.goto(serve(create_app([serve(double.app).url for double in doubles])).url)
        page.wait_for_selector("#servers li:nth-child(2).ok")
        return doubles

    return start


def test_a_race_on_one_host_is_run_in_turn(racers, page):
    domino, plain = racers()
    ask(page, "Hello")
    waits = ".answer:nth-of-type(2) .note:has-text('Waits for its turn: both servers are on one host.')"
    page.wait_for_selector(waits)
    result = page.wait_for_selector(".result").inner_text()
    assert re.search(r"DOMINO was [1-9]\.\d\d times as fast as plain decoding: .* The answers are identical\.", result)
    assert "Both servers are on one host, so they took turns" in result
    assert page.is_hidden(waits)
    assert domino.spans[0][1] <= plain.spans[0][0], "they worked at once"
    left, right = page.locator(".answer").all()
    assert left.bounding_box()["y"] == right.bounding_box()["y"], "not side by side"
    assert domino.requests[0]["input_ids"] == plain.requests[0]["input_ids"]
    # The wait for the other's answer is no part of the second one's time to first token.
    waited = plain.spans[0][0] - domino.spans[0][0]
    assert float(right.locator("dd[data-number='first token']").inner_text().split()[0]) < waited
    page.uncheck("#race")
    ask(page, "Again")
    page.wait_for_selector(".turn:nth-of-type(2) .run")
    assert page.locator(".turn:nth-of-type(2) .answer").count() == 1


def test_a_race_of_two_hosts_is_run_at_once(racers, page, monkeypatch):
    monkeypatch.setattr("domino_sglang.playground.app.on_one_host", lambda _urls: False)
    domino, plain = racers()
    ask(page, "Hello")
    result = page.wait_for_selector(".result").inner_text()
    assert "Both servers worked at once, each on a host of its own" in result
    (began, ended), (other_began, other_ended) = domino.spans[0], plain.spans[0]
    assert max(began, other_began) < min(ended, other_ended), "they took turns"


def test_escape_stops_the_one_that_waits_too(racers, page):
    _domino, plain = racers()
    ask(page, "stall")
    page.wait_for_selector(".run")
    page.keyboard.press("Escape")
    page.wait_for_function("() => !document.getElementById('send').disabled")
    assert page.locator("text=Stopped.").count() == 2
    assert plain.requests == []


def test_a_race_goes_on_when_one_server_is_lost(serve, page):
    server = serve(Double().app)
    plain = serve(Double(algorithm=None).app)
    page.goto(serve(create_app([server.url, plain.url])).url)
    page.wait_for_selector("#servers li:nth-child(2).ok")
    plain.stop()
    ask(page, "Hello")
    page.wait_for_selector(".answer:nth-of-type(2) .note.bad")
    page.wait_for_function("() => document.querySelector('.answer dd[data-number=tokens]').textContent === '40'")
    assert page.locator(".result").count() == 0


CONTRAST = """selector => {
  const parts = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => parts(color).slice(0, 3).map((v) => v / 255)
    .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (node) => { for (; node; node = node.parentElement) {
    const color = getComputedStyle(node).backgroundColor; const found = parts(color);
    if (found.length < 4 || found[3] > 0) return color; } };
  return [...document.querySelectorAll(selector)].map((node) => {
    const [a, b] = [light(getComputedStyle(node).color), light(behind(node))].sort((x, y) => y - x);
    return [node.className || node.id || node.tagName, (a + 0.05) / (b + 0.05)]; });
}"""


TEXTS = [
    *("h1", "#servers li", ".legend", ".legend span", ".asked", ".run", ".numbers dt", ".numbers dd"),
    *(".note", ".note button", "#status", "#send"),
]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_both_modes(chat, scheme):
    chat.emulate_media(color_scheme=scheme)
    ask(chat, "Hello")
    wait_for_status(chat, "40 tokens")
    ask(chat, "too long")
    chat.wait_for_selector(".note.bad")
    found = chat.evaluate(CONTRAST, ", ".join(TEXTS))
    assert len(found) > 25
    assert [pair for pair in found if pair[1] < 4.5] == []
    dark = chat.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 20, 23)"
    assert dark == (scheme == "dark")


def test_a_phone(serve, page):
    page.set_viewport_size({"width": 360, "height": 700})
    page.goto(serve(create_app([serve(Double().app).url, serve(Double(algorithm=None).app).url])).url)
    page.wait_for_selector("#servers .ok")
    ask(page, "Hello " + "x" * 80)
    page.wait_for_selector(".result")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    first, second = (card.bounding_box() for card in page.locator(".answer").all())
    assert second["y"] >= first["y"] + first["height"], "two columns do not fit"
    composer = page.locator("#composer").bounding_box()["height"]
    assert composer < 260, "the form leaves no room for the answer"
    page.click("#settings_head")
    assert page.is_visible("#temperature")
    for control in ("#send", "#stop", "#fresh"):
        assert page.locator(control).bounding_box()["height"] >= 32


def test_every_control_has_a_name_for_those_who_cannot_see_it(chat):
    unnamed = chat.evaluate(
        """() => [...document.querySelectorAll('input, textarea, button')]
          .filter((node) => !(node.labels?.length || node.textContent.trim() || node.ariaLabel))
          .map((node) => node.id)"""
    )
    assert unnamed == []
    assert chat.locator("#status[role=status][aria-live=polite]").count() == 1
    assert chat.locator("main").count() == chat.locator("h1").count() == 1
    assert chat.evaluate("document.documentElement.lang") == "en"
