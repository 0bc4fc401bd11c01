"""The kernels' benchmarks stand outside every package; tests import their modules by name."""

from __future__ import annotations

import sys

from tests.support.paths import ROOT

sys.path.insert(0, str(ROOT / "benchmarks" / "kernels"))
