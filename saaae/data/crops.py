"""Random crops of training tiles."""

import torch
from torch import Tensor

from saaae.data.corruption import per_image
from saaae.rng import RandomSource

SHADE = 0.1
"""Largest change of brightness in each direction between the middle of a crop and its border, as a part of it."""


def random_crops(x: Tensor, size: int, noise: float, rng: RandomSource) -> Tensor:
    """A square of each image, mirrored at random in both directions, with a gradient of brightness and white noise.

    Args:
        x: Images (B, C, H, W) in [0, 1].
        size: Side of the squares in pixels, at most H and W.
        noise: Largest standard deviation of the noise, in standard deviations of the crop.
        rng: Source of places, mirrors, gradients and noise.

    Returns:
        Images (B, C, size, size) in [0, 1].
    """
    along = torch.arange(size, device=x.device)
    places, shade = [], torch.ones(1, device=x.device)
    for length, shape in zip(x.shape[-2:], ((-1, 1, size, 1), (-1, 1, 1, size)), strict=True):
        start = (rng.uniform(per_image(x)).flatten() * (length - size + 1)).long().clamp_max(length - size)
        mirrored = rng.uniform(per_image(x)).flatten() <= 0.5
        places.append(start[:, None] + torch.where(mirrored[:, None], size - 1 - along, along))
        slope = SHADE * (2 * rng.uniform(per_image(x)) - 1)
        shade = shade + slope * torch.linspace(-1, 1, size, device=x.device).view(shape)
    rows, columns = places
    picked = x[torch.arange(len(x), device=x.device)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    crops = picked.permute(0, 3, 1, 2) * shade
    if noise:
        std = noise * rng.uniform(per_image(crops)) * crops.std((1, 2, 3), keepdim=True, correction=0)
        crops = crops + std * rng.normal(crops)
    return crops.clamp(0.0, 1.0)
