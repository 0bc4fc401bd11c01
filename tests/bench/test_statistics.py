import math

import pytest

from domino_sglang.bench.common.statistics import Spread, percentile, percentiles


def test_percentiles_are_numpys():
    import numpy

    values = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0]
    for q in (0, 25, 50, 95, 99, 100):
        assert percentile(values, q) == pytest.approx(float(numpy.percentile(values, q)))


def test_percentiles_of_one_and_of_none():
    assert percentiles([2.0]) == {"p50": 2.0, "p95": 2.0, "p99": 2.0}
    assert all(math.isnan(value) for value in percentiles([]).values())


def test_spread_says_median_and_range():
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert Spread.of([3.0, 1.0, 2.0]).text() == "2.0 (1.0 to 3.0)"
    assert Spread.of([2.0]).text() == "2.0"
    assert Spread.of([math.nan]).text() == "-"
