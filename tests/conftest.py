"""Settings for every test."""

from __future__ import annotations

import sys

from tests.support.paths import ROOT

# Tests import `tests.support` and `benchmarks` however pytest was started.
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.support import environment

environment.settle()
PARTS = ("domino", "others", "own")
# Start servers as large as a user's, or several, and ask none of tests/serving/conftest.py.
STARTING_SERVERS = ("test_disaggregation.py", "test_readme_commands.py", "test_tensor_parallel.py")
# Ask no server, and take long: in the part that has room for them.
IN_THE_INTERPRETER = ("test_quantised_targets.py", "test_recurrent_targets.py")


def pytest_addoption(parser):
    parser.addoption("--part", choices=PARTS, help="one of the parts of the suite (tests/side_by_side.py)")


def pytest_collection_modifyitems(config, items):
    part = config.getoption("--part")
    if part is None:
        return
    config.hook.pytest_deselected(items=[item for item in items if part_of(item) != part])
    items[:] = [item for item in items if part_of(item) == part]


def part_of(item) -> str:
    """``domino``: what asks that server, and most of what needs none; so this part and ``others`` take about as long.

    ``own``: what starts servers that do not fit into memory beside the others.
    """
    if item.path.name in STARTING_SERVERS:
        return "own"
    if "servers" in item.fixturenames:
        return "domino" if asks_domino(item) else "others"
    beside = item.path.parent.name in ("kernels", "training") or item.path.name in IN_THE_INTERPRETER
    return "others" if beside else "domino"


def asks_domino(item) -> bool:
    """By a fixture, by a parameter, or as the ``arm`` of an SGLang kit."""
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    arm = getattr(getattr(item, "cls", None), "arm", None)
    return "domino" in item.fixturenames or arm == "domino" or any(value == "domino" for value in parameters)
