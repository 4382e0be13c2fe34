"""Independent references of the metrics in saaae/metrics/speckle.py: per image, pixel by pixel, in float64.

Images are two-dimensional float64 arrays of amplitudes; a window is (top, left, height, width).
"""

import math
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float64]
Window = tuple[int, int, int, int]


def moments(values: list[float]) -> tuple[float, float]:
    """Mean and variance, without rounding in the sums; the variance of equal values is exactly 0."""
    mean = values[0] + math.fsum(value - values[0] for value in values) / len(values)
    return mean, math.fsum((value - mean) ** 2 for value in values) / len(values)


def moi(x_hat: Image, observed: Image) -> float:
    """Mean of image."""
    means = [max(moments([a * a for a in image.ravel().tolist()])[0], 1 / 255**2) for image in (x_hat, observed)]
    return means[0] / means[1]


def ratio_moments(x_hat: Image, observed: Image) -> tuple[float, float]:
    """Mean and variance of the ratio image."""
    pairs = zip(observed.ravel().tolist(), x_hat.ravel().tolist(), strict=True)
    return moments([b * b / max(a * a, 1 / 255**2) for b, a in pairs])


def enl(image: Image, window: Window) -> float:
    """Equivalent number of looks."""
    top, left, height, width = window
    if height == 0:
        return math.nan
    mean, variance = moments([float(a) ** 2 for a in image[top : top + height, left : left + width].ravel()])
    if mean == 0:
        return 0.0
    return min(mean**2 / variance, 1e6) if variance else 1e6


def epi(x_hat: Image, clean: Image) -> float:
    """Correlation of the Laplacians, from sums of products over the interior pixels."""
    laplacians: list[list[float]] = [[], []]
    for image, values in zip((x_hat, clean), laplacians, strict=True):
        for i in range(1, image.shape[0] - 1):
            for j in range(1, image.shape[1] - 1):
                near = (image[i - 1, j], image[i + 1, j], image[i, j - 1], image[i, j + 1])
                values.append(sum(float(value) - float(image[i, j]) for value in near))
    (mean_a, variance_a), (mean_b, variance_b) = (moments(values) for values in laplacians)
    mean_ab = math.fsum(a * b for a, b in zip(*laplacians, strict=True)) / len(laplacians[0])
    return (mean_ab - mean_a * mean_b) / (max(math.sqrt(variance_a), 1e-6) * max(math.sqrt(variance_b), 1e-6))


def horizontal_ratios(image: Image) -> float:
    """Sum of left / right over horizontal neighbours."""
    rows = [[max(value, 1 / 255) for value in row] for row in image.tolist()]
    return math.fsum(left / right for row in rows for left, right in pairwise(row))


def epd_roa(x_hat: Image, observed: Image) -> tuple[float, float]:
    """Edge preservation degree by ratio of averages, horizontal and vertical."""
    return (
        horizontal_ratios(x_hat) / horizontal_ratios(observed),
        horizontal_ratios(x_hat.T) / horizontal_ratios(observed.T),
    )


def homogeneous_window(guide: Image, size: int) -> Window:
    """The first window with the least std / mean of intensity; dark and clipped windows only as a last resort."""
    found: list[tuple[bool, float, Window]] = []
    for top in range(0, guide.shape[0] - size + 1, size // 2):
        for left in range(0, guide.shape[1] - size + 1, size // 2):
            mean, variance = moments([a * a for a in guide[top : top + size, left : left + size].ravel().tolist()])
            variation = math.sqrt(variance) / mean if mean else 0.0
            clipped = guide[top : top + size, left : left + size].max() >= 1
            found.append((bool(mean < (2 / 255) ** 2 or clipped), variation, (top, left, size, size)))
    return min(found)[2]


def image_quality(x_hat: Image, observed: Image, clean: Image | None, window: Window | None) -> dict[str, float]:
    """All metrics of one image, by name."""
    if window is None:
        window = homogeneous_window(observed if clean is None else clean, min(16, min(x_hat.shape) // 4))
    found = {"moi": moi(x_hat, observed)}
    found["ratio_mean"], found["ratio_variance"] = ratio_moments(x_hat, observed)
    found["enl"], found["enl_observed"] = enl(x_hat, window), enl(observed, window)
    found["epd_roa_horizontal"], found["epd_roa_vertical"] = epd_roa(x_hat, observed)
    if clean is not None:
        found["epi"] = epi(x_hat, clean)
    return found


def speckle_quality(
    x_hat: Image, observed: Image, clean: Image | None = None, windows: list[Window] | None = None
) -> dict[str, Image]:
    """Metrics (B,) of amplitudes (B, 1, H, W), by name."""
    images = [
        image_quality(
            x_hat[i, 0], observed[i, 0], None if clean is None else clean[i, 0], None if windows is None else windows[i]
        )
        for i in range(len(x_hat))
    ]
    return {name: np.array([image[name] for image in images]) for name in images[0]}
