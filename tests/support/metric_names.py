"""Names of the metrics a DOMINO server can report, read from the code that makes them."""

from __future__ import annotations

import functools
import importlib.util
import re
from pathlib import Path

import domino_sglang.serving.observe.metrics

METRIC = re.compile(r"\b(?:sglang|domino):[a-z0-9_]+")
# What Prometheus calls the samples of a histogram.
SUFFIXES = ("", "_bucket", "_sum", "_count")


@functools.cache
def known_metrics() -> frozenset[str]:
    """Every ``sglang:...`` and ``domino:...`` a collector is made with, and the samples of histograms."""
    sglang = Path(importlib.util.find_spec("sglang").submodule_search_locations[0])
    sources = [sglang / "srt/observability/metrics_collector.py", Path(domino_sglang.serving.observe.metrics.__file__)]
    made = {name for source in sources for name in re.findall(r'"((?:sglang|domino):[a-z0-9_]+)"', source.read_text())}
    return frozenset(name + suffix for name in made for suffix in SUFFIXES)


def metrics_in(text: str) -> set[str]:
    return set(METRIC.findall(text))
