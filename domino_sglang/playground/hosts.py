"""Whether servers share a machine."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

THIS_MACHINE = "this machine"


def on_one_host(urls: Sequence[str]) -> bool:
    """Whether all URLs lead to one machine, whatever names and addresses it has."""
    return bool(frozenset.intersection(*map(_machine, urls)))


def _machine(url: str) -> frozenset[str]:
    """Addresses of the URL's host; those of this machine count as one."""
    host = urlsplit(url).hostname or ""
    try:
        found = socket.getaddrinfo(host, None)
    except OSError:
        return frozenset({host})
    return frozenset(THIS_MACHINE if _is_own(family, where) else str(where[0]) for family, *_, where in found)


def _is_own(family: socket.AddressFamily, where: tuple) -> bool:
    # A socket can only be bound to an address of its own machine.
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind(where)
    except OSError:
        return False
    return True
