"""A real headless Chromium, the machine's own, for tests that look at the playground as a person would."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-sync", "--disable-component-update"),
]


@contextmanager
def chromium(profile: Path) -> Iterator:
    """A browser context with a profile of its own; its pages fail the test when they log an error."""
    from playwright.sync_api import sync_playwright

    assert CHROMIUM is not None, "no chromium: `make tools`, or apt-get install chromium"
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(profile), executable_path=CHROMIUM, args=FLAGS, headless=True, viewport={"width": 1100, "height": 800}
        )
        context.set_default_timeout(30_000)
        try:
            yield context
        finally:
            context.close()
