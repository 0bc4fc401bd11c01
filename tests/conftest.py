"""Settings for every test."""

from __future__ import annotations

import sys

from tests.support.paths import ROOT

# Tests import `tests.support` and `benchmarks` however pytest was started.
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.support import environment

environment.settle()
PARTS = ("domino", "others")
# Without the servers of tests/serving/conftest.py, but not without any.
STARTING_SERVERS = ("test_disaggregation.py", "test_readme_commands.py", "test_tensor_parallel.py")


def pytest_addoption(parser):
    parser.addoption("--part", choices=PARTS, help="one of the two parts of the suite (tests/side_by_side.py)")


def pytest_collection_modifyitems(config, items):
    part = config.getoption("--part")
    if part is None:
        return
    left_out = [item for item in items if first_half(item) != (part == "domino")]
    config.hook.pytest_deselected(items=left_out)
    kept = [item for item in items if first_half(item) == (part == "domino")]
    # Last, when the other half is done or nearly: `make demo` serves with the memory that a user's server takes.
    items[:] = sorted(kept, key=lambda item: item.path.name in STARTING_SERVERS)


def first_half(item) -> bool:
    """What asks the server ``domino``, and what needs none, kernels and training aside; so both parts take as long.

    Those that start servers of their own stay in the other half: two of them at a time need too much memory.
    """
    if "servers" in item.fixturenames:
        return asks_domino(item)
    return item.path.name not in STARTING_SERVERS and item.path.parent.name not in ("kernels", "training")


def asks_domino(item) -> bool:
    """By a fixture, by a parameter, or as the ``arm`` of an SGLang kit."""
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    arm = getattr(getattr(item, "cls", None), "arm", None)
    return "domino" in item.fixturenames or arm == "domino" or any(value == "domino" for value in parameters)
