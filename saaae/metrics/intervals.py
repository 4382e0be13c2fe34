"""How sure a mean over few seeds is."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from scipy.special import stdtrit


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Mean and half width of its Student-t interval (Student 1908): mean +- t * s / sqrt(n), n - 1 degrees of freedom.

    Args:
        values: Independent numbers, such as differences of two models paired by seed; at least one.
        confidence: Share of such intervals that hold the true mean, if the numbers are normal.

    Returns:
        The mean and the half width, which is nan for a single number.
    """
    n = len(values)
    if n < 2:
        return fmean(values), math.nan
    return fmean(values), float(stdtrit(n - 1, 0.5 + confidence / 2)) * stdev(values) / math.sqrt(n)
