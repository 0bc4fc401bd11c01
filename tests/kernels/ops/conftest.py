"""These tests run on a GPU when there is one (they are marked ``gpu``), and in Triton's interpreter otherwise.

Triton decides at import whether it interprets, for the whole process; ``../test_interpreted.py`` therefore runs this
folder in a process of its own, and nothing leaks into the other tests.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE not in Path(item.fspath).parents or INTERPRETED:
            continue
        item.add_marker(pytest.mark.gpu)
        if not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no GPU here; test_interpreted.py runs this test on the CPU"))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def device() -> str:
    return "cpu" if INTERPRETED else "cuda"
