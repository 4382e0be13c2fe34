"""Detection of defective tiles and strips: calibration of scores, thresholds, evaluation."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from saaae.metrics.ranking import Array, auroc, average_precision, counts_of, detection, num_items

STD_FLOOR = 1e-3
"""Least standard deviation of one fabric's scores, as a part of that of all scores."""


class FabricCalibration:
    """Makes scores of different fabrics comparable: z-scores by the mean and spread of each fabric's normal tiles.

    Fabrics that training has not seen get the values of all tiles together.

    Args:
        scores: Scores of normal training tiles (N,), or the means of their maps.
        fabrics: Code of each tile's fabric (N,).
        squares: Mean squares of the maps that `scores` are the means of (N,), which makes it the mean and spread of
            pixels; None is that of the scores.
    """

    def __init__(self, scores: ArrayLike, fabrics: ArrayLike, squares: ArrayLike | None = None) -> None:
        scores, fabrics = np.asarray(scores, np.float64), np.asarray(fabrics)
        squares = scores**2 if squares is None else np.asarray(squares, np.float64)
        self.pooled = _mean_and_std(scores, squares, 1e-12)
        floor = STD_FLOOR * self.pooled[1]
        parts = {int(code): fabrics == code for code in np.unique(fabrics)}
        self.by_fabric = {code: _mean_and_std(scores[mine], squares[mine], floor) for code, mine in parts.items()}

    def moments(self, fabric: int) -> tuple[float, float]:
        """Mean and standard deviation (of the population, floored) of the scores of a fabric."""
        return self.by_fabric.get(int(fabric), self.pooled)

    def z_scores(self, scores: ArrayLike, fabrics: ArrayLike) -> Array:
        """Scores (N,) of tiles of fabrics (N,) in standard deviations above the mean of their fabric."""
        mean, std = np.array([self.moments(code) for code in np.asarray(fabrics)]).reshape(-1, 2).T
        return (np.asarray(scores, np.float64) - mean) / std


class PositionCalibration:
    """Mean and spread of the pixels of maps by fabric and position along the strip, from normal tiles.

    Positions that no tile of a fabric covers get the values of the last one before, unknown fabrics those of all tiles.

    Args:
        means: Mean of each column of the maps of tiles (N, W).
        squares: Mean square of each column (N, W).
        fabrics: Code of each tile's fabric (N,).
        left: Column of the strip at which each tile begins (N,), counted from its first tile.
        width: Columns that share a mean and a spread.
    """

    def __init__(self, means: ArrayLike, squares: ArrayLike, fabrics: ArrayLike, left: ArrayLike, width: int) -> None:
        means, squares = np.asarray(means, np.float64), np.asarray(squares, np.float64)
        fabrics, block = np.asarray(fabrics), self._blocks(np.asarray(left)[:, None], means.shape[1], width)
        self.width = width
        self.pooled = _mean_and_std(means, squares, 1e-12)
        floor = STD_FLOOR * self.pooled[1]
        self.by_fabric: dict[int, tuple[Array, Array]] = {}
        for code in np.unique(fabrics):
            mine = fabrics == code
            parts: list[tuple[float, float]] = []
            for number in range(int(block[mine].max()) + 1):
                at = block[mine] == number
                parts.append(_mean_and_std(means[mine][at], squares[mine][at], floor) if at.any() else parts[-1])
            mean, std = np.array(parts).T
            self.by_fabric[int(code)] = mean, std

    @staticmethod
    def _blocks(left: NDArray[Any], count: int, width: int) -> NDArray[Any]:
        return (left + np.arange(count)) // width

    def moments(self, fabric: int, left: int, count: int) -> tuple[Array, Array]:
        """Mean and standard deviation of `count` columns (count,) of a strip of a fabric, from a column on."""
        if fabric not in self.by_fabric:
            mean, std = self.pooled
            return np.full(count, mean), np.full(count, std)
        means, stds = self.by_fabric[fabric]
        block = np.minimum(self._blocks(np.array(left), count, self.width), len(means) - 1)
        return means[block], stds[block]


def _mean_and_std(scores: Array, squares: Array, floor: float) -> tuple[float, float]:
    mean = float(scores.mean())
    return mean, max(float(squares.mean()) - mean**2, floor**2) ** 0.5


def held_out_threshold(scores: ArrayLike, false_alarms: float = 0.01) -> float:
    """The score that at most a share of held-out normal tiles exceeds; uses no defect.

    Args:
        scores: Scores of normal tiles that nothing was fitted on (N,), at least one.
        false_alarms: The share, in (0, 1).
    """
    return float(np.quantile(np.asarray(scores, np.float64), 1 - false_alarms, method="higher"))


def at_threshold(scores: ArrayLike, labels: ArrayLike, threshold: float) -> dict[str, float]:
    """Metrics of alarms at scores above a threshold.

    Args:
        scores: Scores (N,).
        labels: Labels (N,).
        threshold: The largest score that does not alarm.

    Returns:
        `recall`, `false_alarm_rate`, `precision` and `f1` in [0, 1]; nan where nothing is there to divide
        by, and all of them if a score or the threshold is nan.
    """
    scores, defective = np.asarray(scores, np.float64), np.asarray(labels) == 1
    broken = bool(np.isnan(scores).any() or np.isnan(threshold))
    alarm = scores > threshold
    hits, alarms, positives = int((alarm & defective).sum()), int(alarm.sum()), int(defective.sum())
    parts = {
        "recall": (hits, positives),
        "false_alarm_rate": (alarms - hits, len(scores) - positives),
        "precision": (hits, alarms),
        "f1": (2 * hits, alarms + positives),
    }
    return {name: float("nan") if broken or not whole else part / whole for name, (part, whole) in parts.items()}


class ScoredTiles(NamedTuple):
    """Test tiles and what is known of them.

    Attributes:
        score: z-score (N,).
        label: 1 defective, 0 normal, -1 left out (N,).
        strip: Which strip each was cut from (N,).
        fabric: Code of its fabric (N,).
        defect: Code of the defect on its strip, 0 for none (N,).
    """

    score: NDArray[Any]
    label: NDArray[Any]
    strip: NDArray[Any]
    fabric: NDArray[Any]
    defect: NDArray[Any]

    def where(self, chosen: NDArray[np.bool_]) -> "ScoredTiles":
        return ScoredTiles(*(field[chosen] for field in self))


def evaluate_detection(tiles: ScoredTiles, threshold: float) -> dict[str, Any]:
    """Detection metrics of tiles and strips; plain numbers in nested dictionaries.

    An unmarked tile of a defective strip may hold an unmarked defect: it counts in `tile_all` only, as normal.

    Args:
        tiles: The test tiles.
        threshold: From `held_out_threshold`.

    Returns:
        `tile`, `tile_all` and `image` as `detection` has them, an image being a strip that scores as the highest of all
        its tiles and is defective if it has a defect code; `threshold` with its `value` and what the tiles come to
        there; `per_fabric` and `per_defect` by code, the latter each against all normal tiles.
    """
    labelled = tiles.where(tiles.label >= 0)
    known = labelled.where((labelled.label == 1) | (labelled.defect == 0))
    strips, of_tile = np.unique(tiles.strip, return_inverse=True)
    highest, defective = np.full(len(strips), -np.inf), np.zeros(len(strips), np.int64)
    np.maximum.at(highest, of_tile, tiles.score)
    np.maximum.at(defective, of_tile, tiles.defect != 0)
    fabrics = {f"{code:02d}": known.fabric == code for code in np.unique(tiles.fabric)}
    codes = np.unique(known.defect[known.label == 1])
    defects = {f"{code:03d}": (known.label == 0) | (known.defect == code) for code in codes}
    return {
        "tile": detection(known.score, known.label, known.strip),
        "tile_all": detection(labelled.score, labelled.label, labelled.strip),
        "image": detection(highest, defective, strips),
        "threshold": {"value": threshold, **at_threshold(known.score, known.label, threshold)},
        "per_fabric": {code: _ranking(known.where(chosen)) for code, chosen in fabrics.items()},
        "per_defect": {code: _ranking(known.where(chosen)) for code, chosen in defects.items()},
    }


def _ranking(tiles: ScoredTiles) -> dict[str, float]:
    counts = counts_of(tiles.score, tiles.label)
    found = {"auroc": float(auroc(counts)), "average_precision": float(average_precision(counts))}
    return found | num_items(tiles.label)
