"""Does an importance map know what matters? Hide what it calls important, and compare with hiding at random."""

from collections.abc import Callable

import torch
from torch import Tensor

from saaae.metrics.image import reconstruction_quality


def hide(z: Tensor, cells: Tensor) -> Tensor:
    """Codes whose chosen cells are at 0, the mean of the prior.

    Args:
        z: Codes (B, D), or maps (B, C, h, w), of which a cell is a position with all its channels.
        cells: Which cells to hide (B, D) or (B, h * w), bool.
    """
    return z.masked_fill(cells.view(len(z), 1, *z.shape[2:]) if z.dim() == 4 else cells, 0.0)


def highest(scores: Tensor, share: float) -> Tensor:
    """The cells of the highest scores (B, N) as bool (B, N): a share of them, at least one."""
    chosen = scores.topk(max(1, round(share * scores.shape[1])), dim=1).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, chosen, True)


def ssim_without(
    decode: Callable[[Tensor], Tensor],
    z: Tensor,
    scores: Tensor,
    reference: Tensor,
    share: float,
) -> Tensor:
    """SSIM (B,) of reconstructions when the cells of the highest scores are hidden.

    Deviation: deletion as a test of attribution hides input pixels (Petsiuk et al. 2018); the importance here is one of
    cells of the code, so these are hidden.

    Args:
        decode: Codes to images (B, C, H, W).
        z: Codes (B, D) or (B, C, h, w).
        scores: Importance of each cell (B, D) or (B, h * w); random numbers for the control.
        reference: What reconstructions are compared with (B, C, H, W).
        share: How much of the code is hidden, in (0, 1].
    """
    return reconstruction_quality(decode(hide(z, highest(scores, share))), reference)["ssim"]
