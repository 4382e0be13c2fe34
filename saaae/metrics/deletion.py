"""Deletion test: masking the latent cells that an importance map ranks highest, against masking others."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from saaae.metrics.image import reconstruction_quality


def hide(z: Tensor, cells: Tensor, prior_mean: Tensor | float = 0.0) -> Tensor:
    """Codes whose chosen cells are at the mean of the prior.

    Args:
        z: Latent vectors (B, D), or maps (B, C, h, w), where a cell is a position with all its channels.
        cells: Which cells to hide (B, N) or (B, h * w), bool; the first N of a vector's values.
        prior_mean: What to put there, in the shape of z or one value.
    """
    hidden = cells.view(len(z), 1, *z.shape[2:]) if z.dim() == 4 else pad(cells, (0, z.shape[1] - cells.shape[1]))
    return torch.where(hidden, prior_mean, z)


def highest(scores: Tensor, share: float, ties: Tensor) -> Tensor:
    """The cells of the highest scores (B, N) as bool (B, N): a share of them, at least one.

    Args:
        scores: Importance of each cell (B, N).
        share: How many of the N.
        ties: Random numbers (B, N) that decide between equal scores.
    """
    order = ties.argsort(1)
    best = scores.gather(1, order).argsort(dim=1, descending=True, stable=True)
    best = best[:, : max(1, round(share * scores.shape[1]))]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, order.gather(1, best), True)


def displaced(importance: Tensor, uniform: Tensor) -> Tensor:
    """Importance of the same distribution and shape elsewhere: the control of the deletion test.

    A map is moved by as many rows and columns, around its borders, as two numbers say, so that its important cells lie
    together as before (scattered cells cost another amount of SSIM whatever they mean); the values of a vector are
    shuffled.

    Args:
        importance: (B, D) or (B, 1, h, w).
        uniform: Random numbers on (0, 1] in the same shape.
    """
    if importance.dim() == 2:
        return importance.gather(1, uniform.argsort(1))
    height, width = importance.shape[-2:]
    down, right = ((uniform.flatten(1)[:, i] * side).long() % side for i, side in ((0, height), (-1, width)))
    rows = (torch.arange(height, device=uniform.device) + down[:, None]) % height
    columns = (torch.arange(width, device=uniform.device) + right[:, None]) % width
    image = torch.arange(len(importance), device=uniform.device)[:, None, None]
    return importance[image, 0, rows[:, :, None], columns[:, None, :]][:, None]


def ssim_without(
    decode: Callable[[Tensor], Tensor],
    z: Tensor,
    cells: Tensor,
    reference: Tensor,
    prior_mean: Tensor | float = 0.0,
) -> Tensor:
    """SSIM (B,) of reconstructions when chosen cells are hidden.

    Deviation: deletion as a test of attribution hides input pixels (Petsiuk et al. 2018); the importance here is one of
    cells of the code, so these are hidden.

    Args:
        decode: Codes to images (B, C, H, W).
        z: Codes (B, D) or (B, C, h, w).
        cells: Which cells to hide (B, D) or (B, h * w), bool.
        reference: What reconstructions are compared with (B, C, H, W).
        prior_mean: Codes that tell nothing, in the shape of z or one value.
    """
    return reconstruction_quality(decode(hide(z, cells, prior_mean)), reference)["ssim"]
