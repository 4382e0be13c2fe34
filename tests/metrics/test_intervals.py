import math

import numpy as np
import pytest
from scipy import stats

from saaae.metrics.intervals import mean_interval


@pytest.mark.parametrize("n", [2, 3, 10, 200])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_the_interval_is_that_of_scipy(n, confidence):
    values = np.random.default_rng(n).normal(1000.0, 0.1, n)
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(confidence)
    mean, half_width = mean_interval(values.tolist(), confidence)
    assert (mean - half_width, mean + half_width) == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_the_interval_agrees_with_the_t_table():
    # s = 1, t(2 degrees of freedom, 97.5 %) = 4.30265
    assert mean_interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 4.30265 / math.sqrt(3)), rel=1e-6)


def test_equal_values_give_a_zero_width_interval_and_one_value_gives_none():
    assert mean_interval([0.5, 0.5, 0.5]) == (0.5, 0.0)
    mean, half_width = mean_interval([3.0])
    assert mean == 3.0
    assert math.isnan(half_width)


def test_about_95_percent_of_the_intervals_contain_the_mean():
    draws = np.random.default_rng(0).normal(5.0, 2.0, (2000, 3))
    held = [abs(mean - 5.0) <= half_width for mean, half_width in map(mean_interval, draws.tolist())]
    assert np.mean(held) == pytest.approx(0.95, abs=0.015)
