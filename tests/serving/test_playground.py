"""The playground before real servers, in a real Chromium: what it shows is what the server did."""

from __future__ import annotations

import re

import pytest

from domino_sglang.playground.app import create_app
from tests.support.browser import chromium
from tests.support.web import Served

PROMPT = "Name three fruits."
MAX_TOKENS = 40
# The page writes its answer for good when the status line counts it.
FINISHED = r"() => document.getElementById('status').textContent.match(/\d+ tokens in \d+ steps/)"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as context:
        context.set_default_timeout(180_000)
        yield context


@pytest.fixture
def page(browser):
    opened = browser.new_page()
    yield opened
    opened.close()


def ask(page, url: str) -> None:
    page.goto(url)
    page.wait_for_selector("#servers li:last-child.ok")
    page.fill("#max_tokens", str(MAX_TOKENS))
    page.fill("#prompt", PROMPT)
    page.press("#prompt", "Enter")


def runs(answer) -> list[tuple[int, int]]:
    """Tokens and steps of each coloured run."""
    return [
        tuple(map(int, pair))
        for pair in answer.locator(".run").evaluate_all(
            "runs => runs.map(run => [run.dataset.tokens, run.dataset.steps])"
        )
    ]


def test_every_run_is_what_a_verify_step_committed(page, domino):
    expected = domino.generate(domino.chat_ids(PROMPT), {"max_new_tokens": MAX_TOKENS})
    steps_before = domino.metric("domino:verify_steps_total")
    accepted_before = domino.metric("domino:accepted_proposals_total")
    with Served(create_app([domino.url])) as playground:
        ask(page, playground.url)
        page.wait_for_function(FINISHED)
        shown = runs(page)
        number = lambda name: page.inner_text(f"dd[data-number='{name}']")  # noqa: E731
        assert "DOMINO" in page.inner_text("#servers")
        assert "".join(page.locator(".run").all_text_contents()) == expected["text"]
        tokens, steps, acceptance = int(number("tokens")), int(number("steps")), float(number("acceptance length"))
    meta = expected["meta_info"]
    assert (tokens, steps) == (meta["completion_tokens"], meta["spec_verify_ct"])
    assert acceptance == pytest.approx((tokens - 1) / steps, abs=0.006)
    assert sum(run[0] for run in shown) == tokens
    # A busy server may send two steps in one chunk, which shows the fewest that explain it.
    assert steps / 2 < len(shown) <= steps + 1
    assert sum(run[1] for run in shown) <= steps
    # The scheduler counted the same steps, and the last of them may have committed more than the answer had room for.
    assert domino.metric("domino:verify_steps_total") - steps_before == steps
    committed = domino.metric("domino:accepted_proposals_total") - accepted_before + steps
    assert tokens - 1 <= committed < tokens - 1 + 8


def test_a_race_against_plain_decoding(page, domino, ar):
    with Served(create_app([domino.url, ar.url])) as playground:
        ask(page, playground.url)
        result = page.wait_for_selector(".result").inner_text()
        left, right = page.locator(".answer").all()
        plain = runs(right)
        # The first token comes from the prefill; a busy server may send it together with the next.
        assert plain[0][0] == plain[0][1] + 1
        assert all(tokens == steps for tokens, steps in plain[1:])
        assert right.locator("h3").inner_text() == "plain decoding"
        assert left.locator(".text").inner_text() == right.locator(".text").inner_text()
    assert re.search(r"(DOMINO|plain decoding) was \d+\.\d\d times as fast", result)
    assert "The answers are identical." in result


def test_a_request_the_server_refuses(page, domino):
    with Served(create_app([domino.url])) as playground:
        page.goto(playground.url)
        page.wait_for_selector("#servers .ok")
        # Longer than the model's context.
        page.fill("#prompt", "word " * 9000)
        page.press("#prompt", "Enter")
        page.wait_for_selector(".note.bad[role=alert]")
        assert page.inner_text(".note.bad").startswith("Request refused: ")
        ask(page, playground.url)
        page.wait_for_function(FINISHED)
