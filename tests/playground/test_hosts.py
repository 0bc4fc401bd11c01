"""One machine under many names, and two."""

from __future__ import annotations

import socket

import pytest

from domino_sglang.playground.hosts import on_one_host

LOCAL = "http://127.0.0.1:30000"


@pytest.mark.parametrize(
    "other",
    ["http://127.0.0.1:30001", "http://localhost:1/prefix", "https://127.0.0.5", f"http://{socket.gethostname()}"],
)
def test_this_machine_has_many_names(other):
    assert on_one_host([LOCAL, other])


# Addresses kept for documentation: nobody's own.
@pytest.mark.parametrize(
    "other", ["http://192.0.2.7:30000", "http://[2001:db8::7]:30000", "http://no.such.host.invalid"]
)
def test_another_machine_is_another(other):
    assert not on_one_host([LOCAL, other])
    assert on_one_host([other, f"{other}/elsewhere"])
