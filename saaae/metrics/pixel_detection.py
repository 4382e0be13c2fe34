"""Detection of defective pixels: anomaly maps, and their metrics over whole strips."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torchmetrics import Metric

from saaae.metrics.ranking import Array, Counts, area, auroc, average_precision, best_f1, ratio

BINS = 2**21
"""Bins of pixel scores; the first is for NaN."""

FARTHEST = 1e6
"""Absolute score beyond which all share a bin."""

LIMITS = {"aupro_30": 0.3, "aupro_05": 0.05}

SIGMA = 4.0
"""Standard deviation in pixels of the smoothing of maps: the choice of PaDiM (Defard et al. 2021) and PatchCore."""


def ordered_bins(scores: Tensor) -> Tensor:
    """Bin of each score in its order of size: integers (...,) in [1, BINS), int64; 0 for NaN.

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
    return float(area(np.append(false_positives[below], limit), np.append(overlap[below], end)) / limit)


class PixelDetection(Metric):
    """How well maps of anomaly scores find defective pixels, over any number of pixels in fixed memory.

    Scores are counted in bins that keep their order; those in one bin count as ties. They are to be standardised, about
    0 with a spread of about 1: see `ordered_bins`. State adds up: that of two processes is the sum of theirs.
    """

    full_state_update = False
    normal: Tensor
    defective: Tensor
    overlap: Tensor
    regions: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name, dtype in (("normal", torch.int64), ("defective", torch.int64), ("overlap", torch.float64)):
            self.add_state(name, torch.zeros(BINS, dtype=dtype), dist_reduce_fx="sum")
        self.add_state("regions", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, score_map: Tensor, mask: Tensor) -> None:
        """Adds a strip.

        Args:
            score_map: Scores (H, W).
            mask: uint8 (H, W): 1 defect, 0 normal, anything else, such as 255, unknown and left out.
        """
        device = self.normal.device
        bins, mask = ordered_bins(score_map.detach().to(device)), mask.to(device)
        self.normal += torch.bincount(bins[mask == 0], minlength=BINS)
        found = bins[mask == 1]
        if len(found):
            weights, number = region_weights(mask.cpu().numpy())
            self.defective.index_add_(0, found, torch.ones_like(found))
            self.overlap.index_add_(0, found, torch.from_numpy(weights).to(device))
            self.regions += number

    @classmethod
    def of_all(cls, parts: Iterable["PixelDetection"]) -> "PixelDetection":
        """One metric of the strips of several, which stay as they are."""
        whole = cls(sync_on_compute=False)
        for part in parts:
            for name in ("normal", "defective", "overlap", "regions"):
                setattr(whole, name, getattr(whole, name) + getattr(part, name))
            whole._update_count += part._update_count
        return whole

    def compute(self) -> dict[str, float]:
        """Pixel metrics in [0, 1].

        `pixel_auroc`, `pixel_ap` and the oracle `pixel_f1`; `aupro_30` and `aupro_05`, the area under the mean share of
        a region that is found against the share of normal pixels that alarm, up to 0.3 and 0.05 of them, over that
        limit (Bergmann et al. 2020, section 5.2). All are nan if a class is missing or a score was nan.
        """
        counts = torch.stack([self.defective.double(), self.normal.double(), self.overlap]).cpu().numpy()[:, ::-1]
        filled = np.asarray(counts[:2].any(0))
        curves = np.pad(counts[:, filled].cumsum(1), ((0, 0), (1, 0)))
        if filled[-1]:
            curves[:] = np.nan
        pixels = Counts(curves[0], curves[1])
        found = {"pixel_auroc": auroc(pixels), "pixel_ap": average_precision(pixels), "pixel_f1": best_f1(pixels)}
        false_positives, overlap = ratio(pixels.alarms, pixels.alarms[-1:]), curves[2] / max(int(self.regions), 1)
        areas = {name: np.array(area_below(false_positives, overlap, limit)) for name, limit in LIMITS.items()}
        return {name: float(value) for name, value in (found | _both(pixels, areas)).items()}


def _both(counts: Counts, values: dict[str, Array]) -> dict[str, Array]:
    return {name: counts.where_both(value) for name, value in values.items()}


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
