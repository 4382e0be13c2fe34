"""How well anomaly scores find defects: of tiles, of strips and of pixels, with intervals, thresholds and calibration.

Scores are higher where a defect is likelier. Labels are 1 (defective) and 0 (normal).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from torch import Tensor
from torchmetrics import Metric

Array = NDArray[np.float64]
RankingMetric = Callable[[ArrayLike, ArrayLike, ArrayLike | None], Array]
"""A function of scores (N,), labels (N,) and weights (..., N): one number for each set of weights."""

BINS = 2**21
"""Bins of pixel scores; the first is for what is no number."""
FARTHEST = 1e6
"""Absolute score beyond which all share a bin."""
LIMITS = {"aupro_30": 0.3, "aupro_05": 0.05}
SIGMA = 4.0
"""Standard deviation in pixels of the smoothing of maps: the choice of PaDiM (Defard et al. 2021) and PatchCore."""
CHUNK = 2**18
"""Weights that the bootstrap holds at a time."""
STD_FLOOR = 1e-3
"""Least standard deviation of one fabric's scores, as a part of that of all scores."""


class Counts(NamedTuple):
    """What lies at or above each of K thresholds, from one above all scores, where nothing does, downwards.

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
        scores: Scores (N,); if any is nan, so is every number that comes of them.
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


def _area(x: Array, y: Array) -> Array:
    """Area under straight lines between points (..., K) with x ascending."""
    return (np.diff(x) * (y[..., 1:] + y[..., :-1])).sum(-1) / 2


def _ratio(part: Array, whole: Array) -> Array:
    """Part / whole; 0 where the whole is 0."""
    return np.divide(part, whole, out=np.zeros(np.broadcast(part, whole).shape), where=whole != 0)


def _auroc(counts: Counts) -> Array:
    hits, alarms = (_ratio(count, count[..., -1:]) for count in counts)
    return counts.where_both(_area(alarms, hits))


def _average_precision(counts: Counts) -> Array:
    steps = np.diff(_ratio(counts.hits, counts.hits[..., -1:]))
    precision = _ratio(counts.hits, counts.hits + counts.alarms)[..., 1:]
    return counts.where_both((steps * precision).sum(-1))


def _best_f1(counts: Counts) -> Array:
    f1 = _ratio(2 * counts.hits, counts.hits + counts.alarms + counts.hits[..., -1:])
    return counts.where_both(f1.max(-1))


def auroc(scores: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None) -> Array:
    """Area under the receiver operating characteristic: P(a defect scores higher than a normal item), ties half.

    Args:
        scores: Scores (N,).
        labels: Labels (N,).
        weights: Weights (..., N), at least 0; several sets of them are evaluated at once.

    Returns:
        In [0, 1], (...,); nan where only one class has weight or a score is nan.
    """
    return _auroc(counts_of(scores, labels, weights))


def average_precision(scores: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None) -> Array:
    """Precision averaged over the steps of recall, not interpolated: scikit-learn's definition.

    Args:
        scores: Scores (N,).
        labels: Labels (N,).
        weights: Weights (..., N), at least 0; several sets of them are evaluated at once.

    Returns:
        In [0, 1], (...,); the share of defects for chance; nan where only one class has weight or a score is nan.
    """
    return _average_precision(counts_of(scores, labels, weights))


def best_f1(scores: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None) -> Array:
    """The largest F1 of any threshold. An oracle: it chooses the threshold by the labels that it is tested on.

    Args:
        scores: Scores (N,).
        labels: Labels (N,).
        weights: Weights (..., N), at least 0; several sets of them are evaluated at once.

    Returns:
        In [0, 1], (...,); nan where only one class has weight or a score is nan.
    """
    return _best_f1(counts_of(scores, labels, weights))


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
        groups: The group that each belongs to (N,): numbers or names.
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
    parts = [metric(scores, labels, times[i : i + rows, group]) for i in range(0, num_resamples, rows)]
    values = np.concatenate(parts)
    values = values[~np.isnan(values)]
    low, high = np.percentile(values, [2.5, 97.5]) if len(values) else (np.nan, np.nan)
    return float(low), float(high)


def detection(scores: ArrayLike, labels: ArrayLike, groups: ArrayLike) -> dict[str, float]:
    """What a ranking is worth.

    Args:
        scores: Scores (N,).
        labels: Labels (N,).
        groups: The strip that each belongs to (N,).

    Returns:
        `auroc` and `average_precision`, each with its 95 % interval `_low` and `_high`; the oracle `best_f1`; the
        numbers of `defective` and normal (`sound`) items.
    """
    found: dict[str, float] = {}
    metrics: dict[str, RankingMetric] = {"auroc": auroc, "average_precision": average_precision}
    for name, metric in metrics.items():
        low, high = bootstrap_interval(metric, scores, labels, groups)
        found |= {name: float(metric(scores, labels, None)), f"{name}_low": low, f"{name}_high": high}
    return found | {"best_f1": float(best_f1(scores, labels))} | _sizes(np.asarray(labels))


def _sizes(labels: NDArray[Any]) -> dict[str, int]:
    return {"defective": int((labels == 1).sum()), "sound": int((labels == 0).sum())}


def ordered_bins(scores: Tensor) -> Tensor:
    """Bin of each score in its order of size: integers (...,) in [1, BINS), int64; 0 for what is no number.

    Bins are equally wide in asinh(score): scores up to 1 share one if they differ by less than 1.4e-5, larger ones by
    less than that part of their size.
    """
    farthest = math.asinh(FARTHEST)
    place = torch.asinh(scores.double()).clamp(-farthest, farthest) / farthest  # in [-1, 1], nan stays
    return 1 + ((place + 1) / 2 * (BINS - 2)).round().nan_to_num(-1).long()


def region_weights(mask: NDArray[Any]) -> tuple[Array, int]:
    """One over the size of the region that each defective pixel belongs to; regions touch at sides or corners.

    Args:
        mask: Mask (H, W), 1 where there is a defect.

    Returns:
        Weights of the defective pixels, row by row, and the number of regions.
    """
    regions, number = ndimage.label(mask == 1, structure=np.ones((3, 3)))
    inside = regions[mask == 1]
    return 1.0 / np.bincount(inside, minlength=1)[inside], int(number)


def area_below(false_positives: Array, overlap: Array, limit: float) -> float:
    """Area under the per-region overlap up to a false positive rate, over that rate (Bergmann et al. 2020, 5.2).

    Args:
        false_positives: False positive rates from 0 to 1 (K,), ascending.
        overlap: Mean share of a region that is found (K,).
        limit: Largest false positive rate; the curve is straight between its points.
    """
    below = false_positives <= limit
    end = np.interp(limit, false_positives, overlap)
    return float(_area(np.append(false_positives[below], limit), np.append(overlap[below], end)) / limit)


class PixelDetection(Metric):
    """How well maps of anomaly scores find defective pixels, over any number of pixels in fixed memory.

    Scores are counted in bins that keep their order; those in one bin count as ties. They are to be standardised, about
    0 with a spread of about 1: see `ordered_bins`. State adds up: that of two processes is the sum of theirs.
    """

    full_state_update = False
    sound: Tensor
    defective: Tensor
    overlap: Tensor
    regions: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name, dtype in (("sound", torch.int64), ("defective", torch.int64), ("overlap", torch.float64)):
            self.add_state(name, torch.zeros(BINS, dtype=dtype), dist_reduce_fx="sum")
        self.add_state("regions", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, score_map: Tensor, mask: Tensor) -> None:
        """Adds a strip.

        Args:
            score_map: Scores (H, W).
            mask: uint8 (H, W): 1 defect, 0 normal, anything else, such as 255, unknown and left out.
        """
        device = self.sound.device
        bins, mask = ordered_bins(score_map.detach().to(device)), mask.to(device)
        self.sound += torch.bincount(bins[mask == 0], minlength=BINS)
        found = bins[mask == 1]
        if len(found):
            weights, number = region_weights(mask.cpu().numpy())
            self.defective.index_add_(0, found, torch.ones_like(found))
            self.overlap.index_add_(0, found, torch.from_numpy(weights).to(device))
            self.regions += number

    def compute(self) -> dict[str, float]:
        """Pixel metrics in [0, 1].

        `pixel_auroc`, `pixel_ap` and the oracle `pixel_f1`; `aupro_30` and `aupro_05`, the area under the mean share of
        a region that is found against the share of normal pixels that alarm, up to 0.3 and 0.05 of them, over that
        limit (Bergmann et al. 2020, section 5.2). All are nan if a class is missing or a score was nan.
        """
        counts = torch.stack([self.defective.double(), self.sound.double(), self.overlap]).cpu().numpy()[:, ::-1]
        filled = np.asarray(counts[:2].any(0))
        curves = np.pad(counts[:, filled].cumsum(1), ((0, 0), (1, 0)))
        if filled[-1]:
            curves[:] = np.nan
        pixels = Counts(curves[0], curves[1])
        found = {"pixel_auroc": _auroc(pixels), "pixel_ap": _average_precision(pixels), "pixel_f1": _best_f1(pixels)}
        false_positives, overlap = _ratio(pixels.alarms, pixels.alarms[-1:]), curves[2] / max(int(self.regions), 1)
        areas = {name: np.array(area_below(false_positives, overlap, limit)) for name, limit in LIMITS.items()}
        return {name: float(value) for name, value in (found | _both(pixels, areas)).items()}


def _both(counts: Counts, values: dict[str, Array]) -> dict[str, Array]:
    return {name: counts.where_both(value) for name, value in values.items()}


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
    """What alarms at scores above a threshold are worth.

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


def squared_residual(x_hat: Tensor, x: Tensor) -> Tensor:
    """Squared error (B, 1, H, W) of images (B, C, H, W), mean over their channels."""
    return ((x_hat - x) ** 2).mean(1, keepdim=True)


def smooth(error_map: Tensor, sigma: float) -> Tensor:
    """Gaussian smoothing of maps, reflected at the border without repeating it; the window ends at 4 sigma.

    Sums of shifted maps, not a convolution: float32 on every device, and under autocast too.

    Args:
        error_map: Maps (B, 1, H, W).
        sigma: Standard deviation in pixels; 0 changes nothing.

    Returns:
        Maps (B, 1, H, W), float32; `scipy.ndimage.gaussian_filter` with mode="mirror".
    """
    radius = int(4 * sigma + 0.5)
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2) if radius else np.ones(1)
    taps /= taps.sum()
    x = error_map.float()
    for axis in (-2, -1):
        length = x.shape[axis]
        period = max(2 * (length - 1), 1)
        place = torch.arange(-radius, length + radius, device=x.device).remainder(period)
        padded = x.index_select(axis, torch.minimum(place, period - place))
        x = torch.zeros_like(x)
        for i, tap in enumerate(taps.tolist()):
            x.add_(padded.narrow(axis, i, length), alpha=tap)
    return x


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
    """What tile scores are worth for tiles and strips; plain numbers in nested dictionaries.

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
    found = {"auroc": float(_auroc(counts)), "average_precision": float(_average_precision(counts))}
    return found | _sizes(tiles.label)
