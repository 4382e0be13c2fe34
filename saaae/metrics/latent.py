"""What a latent space carries, over a whole split."""

import torch
from torch import Tensor
from torchmetrics import Metric

from saaae.types import Posterior

ACTIVE = 0.01
"""Variance of a posterior mean over the data from which its dimension is active (Burda et al. 2016, section 5.1)."""


class LatentStatistics(Metric):
    """Moments of the posterior means over the data, mean posterior variance and KL of each latent dimension.

    Means and variances are relative to the prior: in its standard deviations, from its mean.

    Args:
        size: Number of latent dimensions D.
    """

    full_state_update = False
    count: Tensor
    mean_sum: Tensor
    square_sum: Tensor
    variance_sum: Tensor
    kl_sum: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        for name in ("mean_sum", "square_sum", "variance_sum", "kl_sum"):
            self.add_state(name, torch.zeros(size), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, posterior: Posterior) -> None:
        (mean, variance), kl = posterior.standardised, posterior.kl_per_dimension
        self.count += len(mean)
        self.mean_sum += mean.sum(0)
        self.square_sum += (mean**2).sum(0)
        self.variance_sum += variance.sum(0)
        if kl is not None:
            self.kl_sum += kl.sum(0)

    def compute(self) -> dict[str, Tensor]:
        """Of each dimension (D,): variance of the posterior mean over the data, mean posterior variance, mean KL.

        Also the number of active dimensions. The KL, in nats, is 0 where it is not a sum over dimensions.
        """
        spread = (self.square_sum / self.count - (self.mean_sum / self.count) ** 2).clamp_min(0.0)
        return {
            "spread": spread,
            "variance": self.variance_sum / self.count,
            "kl": self.kl_sum / self.count,
            "active_units": (spread > ACTIVE).sum(),
        }
