"""Large images in overlapping tiles that agree with the whole image."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from saaae.data.tiles import tile_starts

TOLERANCE = 3e-4
"""Largest difference between a tile and the whole image, in units of the images' range, that counts as none."""
RAMP = 16
"""Pixels over which neighbouring tiles are blended, at least."""
PROBES = (64, 128, 256, 384)
"""Sides of the tiles on which a margin is searched."""


class Axis(NamedTuple):
    """Tiles along one axis of an image.

    Attributes:
        size: Pixels of a tile.
        starts: Where the tiles begin.
        weights: Weight (size,) of each tile's pixels; those of all tiles sum to 1 at each pixel of the image.
        length: Pixels that the tiles cover, at least those of the image.
    """

    size: int
    starts: list[int]
    weights: list[np.ndarray]
    length: int


def local_axis(length: int, tile: int, margin: int, stride: int) -> Axis:
    """Tiles of a model whose outputs depend on their surroundings only.

    A tile has no weight within `margin` of its border, unless that is the image's; tiles are as small as their number
    allows, and begin at multiples of the stride.

    Args:
        length: Pixels of the axis.
        tile: Largest size of a tile, a multiple of the stride, more than `overlap(margin, stride)`.
        margin: Pixels, a multiple of the stride.
        stride: Pixels of a latent cell.
    """
    covered = -(-length // stride) * stride
    shared = overlap(margin, stride)
    number = 1 if covered <= tile else -(-(covered - shared) // (tile - shared))
    size = -(-(covered + (number - 1) * shared) // (number * stride)) * stride
    starts = tile_starts(covered, size, size - shared, cover=True) if number > 1 else [0]
    return Axis(size, starts, _weights(starts, size, covered, margin, shared - 2 * margin), covered)


def fixed_axis(length: int, tile: int, stride: int) -> Axis:
    """Half-overlapping tiles of one size, for models that see the whole tile."""
    covered = max(tile, -(-length // stride) * stride)
    starts = tile_starts(covered, tile, max(tile // 2 // stride, 1) * stride, cover=True)
    return Axis(tile, starts, _weights(starts, tile, covered, 0, tile // 2), covered)


def overlap(margin: int, stride: int) -> int:
    """Pixels that neighbouring tiles share: the margins of both, and what they are blended over."""
    return 2 * margin + -(-RAMP // stride) * stride


def _weights(starts: list[int], size: int, length: int, margin: int, ramp: int) -> list[np.ndarray]:
    """Smooth weights of tiles, zero within the margin of a border inside the image; they sum to 1."""
    place, found = np.arange(size) + 0.5, []
    for start in starts:
        left = np.full(size, np.inf) if start == 0 else place - margin
        right = np.full(size, np.inf) if start + size == length else size - margin - place
        found.append(np.sin(np.clip(np.minimum(left, right) / max(ramp, 1), 0, 1) * np.pi / 2) ** 2)
    total = np.zeros(length)
    for start, weight in zip(starts, found, strict=True):
        total[start : start + size] += weight
    return [
        (weight / total[start : start + size]).astype(np.float32) for start, weight in zip(starts, found, strict=True)
    ]


def find_margin(
    model: Callable[[Tensor], Tensor], channels: int, stride: int, device: torch.device, tolerance: float = TOLERANCE
) -> int | None:
    """How far from a tile's border its output differs from that of the whole image, in pixels, by trying.

    A tile of bright speckle is given to the model alone and amid darker speckle. This measures what padding and
    surroundings change, where the reach of a gradient only bounds it: far less than the receptive field, whose rim has
    hardly any weight.

    Args:
        model: From images (1, C, H, W) to images.
        channels: Channels C.
        stride: The result is a multiple of it.
        device: Where the model is.
        tolerance: Difference that counts as none.

    Returns:
        The margin; None if the whole tile differs, as with normalisation or attention over the image.
    """
    for side in PROBES:
        side = -(-side // stride) * stride
        rim = -(-side // 4 // stride) * stride
        speckle = torch.rand(1, channels, side + 2 * rim, side + 2 * rim, generator=torch.Generator().manual_seed(0))
        amplitude = (-torch.log(speckle.clamp_min(1e-6))).sqrt() / 3.0  # at most 1.24, the mean is 0.3
        amplitude = amplitude.clamp_max(1.0)
        inside = (..., slice(rim, rim + side), slice(rim, rim + side))
        whole = amplitude * 0.3
        whole[inside] = amplitude[inside]
        whole = whole.to(device)
        difference = (model(whole)[inside] - model(whole[inside].contiguous())).abs().amax((0, 1))
        for margin in range(0, side * 3 // 8, stride):
            if difference[margin : side - margin, margin : side - margin].max() <= tolerance:
                return margin
    return None
