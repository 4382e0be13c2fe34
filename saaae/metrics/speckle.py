"""What speckle filtering is judged by: radiometry, the ratio image, the equivalent number of looks, edges.

Images are amplitudes (B, 1, H, W) in [0, 1], intensity is their square; nothing is clipped, and several channels would
count as more pixels. Sums are in float64, which autocast leaves alone: ENL needs the variance of almost flat pixels.

- `moi`, mean of image: mean intensity of `x_hat` over that of `observed`, both at least INTENSITY_FLOOR; 1 where
  radiometry is kept.
- `ratio_mean`, `ratio_variance`: moments of the ratio image, observed intensity over that of `x_hat`, which is at least
  INTENSITY_FLOOR. A perfect despeckler of L looks leaves pure speckle, 1 and 1/L (Gomez, Ospina and Frery 2017).
- `enl`, `enl_observed`, equivalent number of looks: mean**2 / variance of intensity (the conventional estimator in
  Anfinsen, Doulgeris and Eltoft 2009) in one window of each image, at most MAX_ENL; 0 where the window is black, nan
  where there is none.
- `epd_roa_horizontal`, `epd_roa_vertical`, edge preservation degree by ratio of averages (Feng, Hou and Gong 2011): sum
  over adjacent pixels of left over right (upper over lower) amplitude, that of `x_hat` over that of `observed`. 1 is an
  untouched image: taking all speckle of L looks off a flat scene gives Gamma(L)**2 / (Gamma(L + 1/2) Gamma(L - 1/2)),
  .64 for L = 1 and .93 for L = 4. Deviation: amplitudes are at least AMPLITUDE_FLOOR.
- `epi`, edge preservation index: correlation of the Laplacians of the amplitudes `x_hat` and `clean` (beta of Sattar et
  al. 1997), by 4 neighbours, the border left out; 0 where either is flat.
"""

import torch
from torch import Tensor

AMPLITUDE_FLOOR = 1 / 255
"""Least amplitude of a divisor, the first step of an 8-bit image."""
INTENSITY_FLOOR = AMPLITUDE_FLOOR**2
"""Least intensity of a divisor."""
SHADOW = (2 / 255) ** 2
"""Mean intensity below which a window is shadow: it is flat for want of signal."""
MAX_ENL = 1e6
"""ENL of a window without variance."""
MAX_WINDOW = 16
"""Side in pixels of the windows in images of 64 pixels or more; smaller images have a quarter of their side."""
FLAT = 1e-6
"""Least standard deviation of a Laplacian, well above the float32 rounding of a flat image."""


def homogeneous_windows(guide: Tensor, size: int) -> Tensor:
    """Most homogeneous window of each image: the least coefficient of variation of intensity.

    Windows lie on a grid of step size // 2, wholly inside the image. Those in SHADOW, and those with clipped pixels (1
    or more), are left out unless all are. Of equals the first counts, row by row.

    Args:
        guide: Amplitudes (B, 1, H, W) by which windows are chosen, never the evaluated image.
        size: Side of the windows in pixels, at most that of the image.

    Returns:
        Top, left, height and width (B, 4), int64.
    """
    step = max(size // 2, 1)
    patches = guide.double().square().unfold(2, size, step).unfold(3, size, step)
    variance, mean = torch.var_mean(patches, dim=(1, 4, 5), correction=0)
    cv = (variance.sqrt() / mean.clamp_min(torch.finfo(torch.float64).tiny)).flatten(1)
    unusable = ((mean < SHADOW) | (patches >= 1).flatten(4).any(4).any(1)).flatten(1)
    unusable &= ~unusable.all(1, keepdim=True)
    best = cv.masked_fill(unusable, torch.inf).argmin(1)
    top, left = best // mean.shape[2] * step, best % mean.shape[2] * step
    side = torch.full_like(best, size)
    return torch.stack([top, left, side, side], dim=1)


def speckle_quality(
    x_hat: Tensor, observed: Tensor, clean: Tensor | None = None, windows: Tensor | None = None
) -> dict[str, Tensor]:
    """Judges despeckled images one by one, by the numbers above; only `epi` needs `clean`.

    ENL is honest because its window is chosen by a guide, `clean` or else `observed`: one chosen by `x_hat` would lie
    where that happens to be smoothest. But the least variation of a noisy guide is partly luck: without `clean`,
    `enl_observed` comes out a quarter (64 pixels) to a half (256 pixels) too high, and with it the `enl` of a local
    filter. Windows laid down beforehand are better.

    Args:
        x_hat: Despeckled amplitudes (B, 1, H, W), at least 3 pixels each way.
        observed: The speckled amplitudes they were made from.
        clean: The amplitudes without speckle, where known.
        windows: Top, left, height and width (B, 4), int64, of a homogeneous rectangle in each image; what lies outside
            the image does not count. Height 0: this image has none. None: `homogeneous_windows` picks squares.

    Returns:
        Numbers (B,), float32, by name.
    """
    if windows is None:
        windows = homogeneous_windows(observed if clean is None else clean, _window_size(x_hat))
    x_hat, observed = x_hat.double(), observed.double()
    intensity, observed_intensity = x_hat.square().flatten(1), observed.square().flatten(1)
    ratio = observed_intensity / intensity.clamp_min(INTENSITY_FLOOR)
    ratio_variance, ratio_mean = torch.var_mean(ratio, dim=1, correction=0)
    found = {
        "moi": _mean(intensity) / _mean(observed_intensity),
        "ratio_mean": ratio_mean,
        "ratio_variance": ratio_variance,
        "enl": _enl(x_hat, windows),
        "enl_observed": _enl(observed, windows),
        "epd_roa_horizontal": _adjacent_ratios(x_hat, 3) / _adjacent_ratios(observed, 3),
        "epd_roa_vertical": _adjacent_ratios(x_hat, 2) / _adjacent_ratios(observed, 2),
    }
    if clean is not None:
        found["epi"] = _correlation(_laplacian(x_hat), _laplacian(clean.double()))
    return {name: value.float() for name, value in found.items()}


def _window_size(x: Tensor) -> int:
    return max(min(MAX_WINDOW, min(x.shape[-2:]) // 4), 1)


def _mean(intensity: Tensor) -> Tensor:
    return intensity.mean(1).clamp_min(INTENSITY_FLOOR)


def _enl(amplitude: Tensor, windows: Tensor) -> Tensor:
    """Equivalent number of looks (B,) inside one rectangle of each image."""
    inside = _inside(windows, amplitude)
    count = inside.sum((1, 2, 3))
    intensity = amplitude.square()
    mean = intensity.where(inside, 0.0).sum((1, 2, 3)) / count
    deviation = (intensity - mean[:, None, None, None]).where(inside, 0.0)
    variance = deviation.square().sum((1, 2, 3)) / count
    floor = (mean.square() / MAX_ENL).clamp_min(torch.finfo(mean.dtype).tiny)
    return mean.square() / variance.clamp_min(floor)


def _inside(windows: Tensor, like: Tensor) -> Tensor:
    """Mask of the rectangles (B, 4), in the shape of `like` (B, C, H, W)."""
    top, left, height, width = windows.to(like.device)[:, :, None].unbind(1)
    rows, columns = (torch.arange(side, device=like.device) for side in like.shape[-2:])
    vertical = (rows >= top) & (rows < top + height)
    horizontal = (columns >= left) & (columns < left + width)
    return (vertical[:, None, :, None] & horizontal[:, None, None, :]).expand_as(like)


def _adjacent_ratios(amplitude: Tensor, dim: int) -> Tensor:
    """Sum (B,) over all adjacent pixels along a dimension of the first over the second amplitude."""
    floored = amplitude.clamp_min(AMPLITUDE_FLOOR)
    length = floored.shape[dim] - 1
    return (floored.narrow(dim, 0, length) / floored.narrow(dim, 1, length)).flatten(1).sum(1)


def _laplacian(x: Tensor) -> Tensor:
    """Laplacian by 4 neighbours of the pixels (B, N) that have them."""
    vertical = x[..., :-2, 1:-1] + x[..., 2:, 1:-1]
    horizontal = x[..., 1:-1, :-2] + x[..., 1:-1, 2:]
    return (vertical + horizontal - 4.0 * x[..., 1:-1, 1:-1]).flatten(1)


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's correlation (B,) of rows (B, N), with standard deviations of at least FLAT."""
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    spread = [x.square().mean(1).sqrt().clamp_min(FLAT) for x in (a, b)]
    return (a * b).mean(1) / (spread[0] * spread[1])
