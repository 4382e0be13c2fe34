"""Reconstruction metrics of each image against a named reference, in float32 with a fixed data range."""

import torch
from torch import Tensor
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    structural_similarity_index_measure,
)

MSE_FLOOR = 1e-10  # identical images score 100 dB instead of infinity, which no mean survives
MS_SSIM_SIDE = 176
"""Smallest side in pixels at which the 11-pixel window of MS-SSIM fits into the coarsest of its five scales."""


def mse_per_image(x_hat: Tensor, reference: Tensor) -> Tensor:
    """Mean squared error of each image (B,) for images (B, C, H, W) in [0, 1]."""
    return ((x_hat - reference) ** 2).flatten(1).mean(1)


def psnr_per_image(x_hat: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image (B,) in dB for peak 1, at most 100 dB."""
    return -10.0 * torch.log10(mse_per_image(x_hat, reference).clamp_min(MSE_FLOOR))


def ssim_per_image(x_hat: Tensor, reference: Tensor) -> Tensor:
    """SSIM of each image (B,) (Wang et al. 2004, eq. 13).

    It is torchmetrics' (11x11 Gaussian window, sigma 1.5, reflected border averaged in), which differs slightly from
    scikit-image's cropped border.
    """
    return torch.as_tensor(structural_similarity_index_measure(x_hat, reference, data_range=1.0, reduction="none"))


def ms_ssim_per_image(x_hat: Tensor, reference: Tensor) -> Tensor:
    """MS-SSIM of each image (B,), five scales, for sides from MS_SSIM_SIDE (Wang et al. 2003, eq. 7).

    It is torchmetrics': the contrast of the finer scales without the border, the coarsest SSIM with it.
    """
    # negative contrast, raised to a fraction, would be no number
    return multiscale_structural_similarity_index_measure(
        x_hat, reference, data_range=1.0, reduction="none", normalize="relu"
    )


def reconstruction_quality(x_hat: Tensor, reference: Tensor, multiscale: bool = False) -> dict[str, Tensor]:
    """`ssim`, `psnr` (dB) and `mse` of each image (B,); also `ms_ssim` if asked for and the images are large enough.

    Args:
        x_hat: Reconstructions (B, C, H, W); clipped to [0, 1].
        reference: Reference images (B, C, H, W); clipped to [0, 1].
        multiscale: Whether to add `ms_ssim`.
    """
    x_hat, reference = x_hat.float().clamp(0, 1), reference.float().clamp(0, 1)
    with torch.autocast(x_hat.device.type, enabled=False):  # SSIM convolves: variances of 16 bits are noise
        found = {
            "ssim": ssim_per_image(x_hat, reference),
            "psnr": psnr_per_image(x_hat, reference),
            "mse": mse_per_image(x_hat, reference),
        }
        if multiscale and min(x_hat.shape[-2:]) >= MS_SSIM_SIDE:
            found["ms_ssim"] = ms_ssim_per_image(x_hat, reference)
    return found


def quality_of(x_hat: Tensor, target: Tensor, clean: Tensor | None, multiscale: bool = False) -> dict[str, Tensor]:
    """`reconstruction_quality` against the target, and as `<name>_clean` against a clean reference beside it.

    Args:
        x_hat: Reconstructions (B, C, H, W).
        target: The training target.
        clean: The clean reference; None, or the target itself, adds nothing.
        multiscale: Whether to add MS-SSIM.
    """
    found = reconstruction_quality(x_hat, target, multiscale)
    if clean is None or clean is target:
        return found
    return found | {f"{name}_clean": value for name, value in reconstruction_quality(x_hat, clean, multiscale).items()}
