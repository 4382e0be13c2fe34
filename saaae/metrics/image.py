"""Reconstruction metrics against a named reference, in float32 with a fixed data range."""

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.image import structural_similarity_index_measure

MSE_FLOOR = 1e-10  # identical images score 100 dB instead of infinity, which no mean survives


def mse_per_image(x_hat: Tensor, reference: Tensor) -> Tensor:
    """Mean squared error of each image (B,) for images (B, C, H, W) in [0, 1]."""
    return ((x_hat - reference) ** 2).flatten(1).mean(1)


def psnr_per_image(x_hat: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image (B,) in dB for peak 1, at most 100 dB."""
    return -10.0 * torch.log10(mse_per_image(x_hat, reference).clamp_min(MSE_FLOOR))


class ReconstructionQuality(Metric):
    """SSIM, PSNR and MSE, each a mean over images.

    SSIM is torchmetrics' (11x11 Gaussian window, sigma 1.5, reflected border averaged in), which differs slightly from
    scikit-image's cropped border. PSNR is the mean of the images' PSNR, not the PSNR of the pooled error.
    """

    full_state_update = False
    ssim: Tensor
    psnr: Tensor
    mse: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("ssim", "psnr", "mse"):
            self.add_state(name, torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, x_hat: Tensor, reference: Tensor) -> None:
        """Adds images (B, C, H, W) in [0, 1] and their references."""
        x_hat, reference = x_hat.float().clamp(0, 1), reference.float().clamp(0, 1)
        with torch.autocast(x_hat.device.type, enabled=False):  # SSIM convolves: variances of 16 bits are noise
            ssim = structural_similarity_index_measure(x_hat, reference, data_range=1.0, reduction="none")
        self.ssim += torch.as_tensor(ssim).sum()
        self.psnr += psnr_per_image(x_hat, reference).sum()
        self.mse += mse_per_image(x_hat, reference).sum()
        self.count += len(x_hat)

    def compute(self) -> dict[str, Tensor]:
        """`ssim`, `psnr` (dB) and `mse`, means over all images seen."""
        return {name: getattr(self, name) / self.count for name in ("ssim", "psnr", "mse")}
