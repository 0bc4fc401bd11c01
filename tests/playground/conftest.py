"""Doubles of servers, and the playground in front of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from domino_sglang.playground.app import create_app
from tests.support.sglang_double import Double
from tests.support.web import Served


@pytest.fixture
def double() -> Double:
    return Double()


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    """Serves apps until the test ends."""
    running: list[Served] = []

    def start(app) -> Served:
        running.append(Served(app).start())
        return running[-1]

    yield start
    for served in reversed(running):
        served.__exit__()


@pytest.fixture
def server(double, serve) -> Served:
    return serve(double.app)


@pytest.fixture
def playground(server, serve) -> Served:
    return serve(create_app([server.url], slow_after_s=1.0))
