"""How well scores rank defective items above normal ones: AUROC, average precision, F1, with bootstrap intervals."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

CHUNK = 2**18
"""Weights that the bootstrap holds at a time."""


class Counts(NamedTuple):
    """Weight at or above each of K thresholds, which descend from one above all scores.

    Attributes:
        hits: Weight of the defective items (..., K).
        alarms: Weight of the normal ones (..., K).
    """

    hits: Array
    alarms: Array

    def where_both(self, values: Array) -> Array:
        """The values (...,), nan where all weight is in one class."""
        return np.where((self.hits[..., -1] > 0) & (self.alarms[..., -1] > 0), values, np.nan)


def counts_of(scores: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None) -> Counts:
    """Cumulative weights at every distinct score: exact, with ties taken as one.

    Args:
        scores: Scores (N,); if any is nan, so are all metrics.
        labels: Labels (N,).
        weights: Weights (..., N), at least 0; None is 1 each.

    Raises:
        ValueError: If there are not as many labels as scores.
    """
    scores, defective = np.asarray(scores, np.float64), np.asarray(labels) == 1
    if scores.shape != defective.shape:
        raise ValueError(f"scores {scores.shape}, labels {defective.shape}: expected one label a score")
    order = np.argsort(-scores, kind="stable")
    weight = np.ones(len(scores)) if weights is None else np.asarray(weights, np.float64)
    weight = np.where(np.isnan(scores).any(), np.nan, weight[..., order])
    ranked = scores[order]
    last_of_tie = np.append(ranked[1:] != ranked[:-1], True)[: len(scores)]

    def cumulated(chosen: NDArray[np.bool_]) -> Array:
        sums = np.cumsum(weight * chosen[order], -1)[..., last_of_tie]
        return np.concatenate([np.zeros((*sums.shape[:-1], 1)), sums], -1)

    return Counts(cumulated(defective), cumulated(~defective))


RankingMetric = Callable[[Counts], Array]
"""A number in [0, 1] for each set of weights (...,); nan where only one class has weight or a score is nan."""


def area(x: Array, y: Array) -> Array:
    """Area under straight lines between points (..., K) with x ascending."""
    return (np.diff(x) * (y[..., 1:] + y[..., :-1])).sum(-1) / 2


def ratio(part: Array, whole: Array) -> Array:
    """Part / whole; 0 where the whole is 0."""
    return np.divide(part, whole, out=np.zeros(np.broadcast(part, whole).shape), where=whole != 0)


def auroc(counts: Counts) -> Array:
    """Area under the receiver operating characteristic: P(a defect scores higher than a normal item), ties half."""
    hits, alarms = (ratio(count, count[..., -1:]) for count in counts)
    return counts.where_both(area(alarms, hits))


def average_precision(counts: Counts) -> Array:
    """Precision averaged over the steps of recall, not interpolated (scikit-learn's definition)."""
    steps = np.diff(ratio(counts.hits, counts.hits[..., -1:]))
    precision = ratio(counts.hits, counts.hits + counts.alarms)[..., 1:]
    return counts.where_both((steps * precision).sum(-1))


def best_f1(counts: Counts) -> Array:
    """The largest F1 of any threshold. An oracle: it chooses the threshold by the labels that it is tested on."""
    f1 = ratio(2 * counts.hits, counts.hits + counts.alarms + counts.hits[..., -1:])
    return counts.where_both(f1.max(-1))


def bootstrap_interval(
    metric: RankingMetric,
    scores: ArrayLike,
    labels: ArrayLike,
    groups: ArrayLike,
    num_resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % percentile interval over resamples of whole groups (Efron and Tibshirani 1993, section 13.3).

    Tiles of one strip are nearly the same texture, so strips are drawn with replacement, not tiles. Resamples with one
    class only are left out.

    Args:
        metric: `auroc`, `average_precision` or `best_f1`.
        scores: Scores (N,).
        labels: Labels (N,).
        groups: The group of each item (N,): numbers or names.
        num_resamples: Number of resamples.
        seed: Seed of the resampling.

    Returns:
        The 2.5th and the 97.5th percentile; nan where every resample is left out.
    """
    group = np.unique(np.asarray(groups), return_inverse=True)[1].reshape(-1)
    if not len(group):
        return float("nan"), float("nan")
    number = int(group.max()) + 1
    draws = np.random.default_rng(seed).integers(number, size=(num_resamples, number))
    times = np.stack([np.bincount(draw, minlength=number) for draw in draws])
    rows = max(1, CHUNK // len(group))
    starts = range(0, num_resamples, rows)
    parts = [metric(counts_of(scores, labels, times[i : i + rows, group])) for i in starts]
    values = np.concatenate(parts)
    values = values[~np.isnan(values)]
    low, high = np.percentile(values, [2.5, 97.5]) if len(values) else (np.nan, np.nan)
    return float(low), float(high)


def detection(scores: ArrayLike, labels: ArrayLike, groups: ArrayLike) -> dict[str, float]:
    """Detection metrics of scored items.

    Args:
        scores: Scores (N,).
        labels: Labels (N,).
        groups: The strip of each item (N,).

    Returns:
        `auroc` and `average_precision`, each with its 95 % interval `_low` and `_high`; the oracle `best_f1`; the
        numbers of `defective` and normal (`sound`) items.
    """
    found: dict[str, float] = {}
    counts = counts_of(scores, labels)
    metrics: dict[str, RankingMetric] = {"auroc": auroc, "average_precision": average_precision}
    for name, metric in metrics.items():
        low, high = bootstrap_interval(metric, scores, labels, groups)
        found |= {name: float(metric(counts)), f"{name}_low": low, f"{name}_high": high}
    return found | {"best_f1": float(best_f1(counts))} | num_items(np.asarray(labels))


def num_items(labels: NDArray[Any]) -> dict[str, int]:
    """Numbers of defective and normal labels (N,)."""
    return {"defective": int((labels == 1).sum()), "sound": int((labels == 0).sum())}
