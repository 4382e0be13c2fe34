"""Likelihoods p(x|z): the link from the decoder's real values to a mean image, and the nll in nats per image."""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from saaae.ranges import PositiveFloat


class Likelihood(nn.Module):
    """Base: a sigmoid link to images in (0, 1)."""

    discrete: bool
    """Whether nll counts whole pixel values; a density's bits per dimension are those of 8-bit pixels."""

    def mean(self, raw: Tensor) -> Tensor:
        """Mean image (B, C, H, W) in [0, 1], float32, of the decoder's values."""
        return torch.sigmoid(raw.float())

    def nll(self, raw: Tensor, target: Tensor) -> Tensor:
        """Negative log likelihood (B,) of `target` (B, C, H, W) in nats per image (sum over pixels)."""
        raise NotImplementedError


class Bernoulli(Likelihood):
    """Binary cross-entropy, from logits.

    On gray images it is the customary training loss but no likelihood: even perfect reconstruction costs the entropy
    of the gray pixels (45.5 nats per MNIST digit).
    """

    discrete = True

    def nll(self, raw: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy (B,) in nats per image."""
        return binary_cross_entropy_with_logits(raw.float(), target, reduction="none").flatten(1).sum(1)


class Gaussian(Likelihood):
    """N(mean, sigma^2) per pixel, with one sigma for all pixels.

    Args:
        sigma: A number (sigma^2 = 1/2 makes the nll the summed squared error plus a constant), `learned` (one trained
            parameter that starts at the error of the first batch), or `optimal`: the maximum-likelihood sigma of the
            batch in closed form, the root of its mean squared error (Rybkin et al. 2021, eq. 8). Evaluation uses the
            running average of the training batches, so that no metric depends on the batch.
        momentum: Weight of the newest batch in that running average.
    """

    discrete = False
    log_sigma: Tensor
    num_batches: Tensor

    def __init__(self, *, sigma: PositiveFloat | Literal["learned", "optimal"], momentum: float = 0.01) -> None:
        super().__init__()
        self.optimal, self.learned, self.momentum = sigma == "optimal", sigma == "learned", momentum
        log_sigma = torch.tensor(0.0 if isinstance(sigma, str) else math.log(sigma))
        if sigma == "learned":
            self.log_sigma = nn.Parameter(log_sigma)
        else:
            self.register_buffer("log_sigma", log_sigma)
        self.register_buffer("num_batches", torch.tensor(0))

    def nll(self, raw: Tensor, target: Tensor) -> Tensor:
        """Minus the log density (B,) in nats per image; negative once sigma is small."""
        squared = ((self.mean(raw) - target) ** 2).flatten(1)
        if self.learned and self.training:
            self._start_from_data(squared)
        log_sigma = self._batch_log_sigma(squared) if self.optimal and self.training else self.log_sigma.float()
        constant = squared.shape[1] * (log_sigma + 0.5 * math.log(2 * math.pi))
        return 0.5 * squared.sum(1) * torch.exp(-2.0 * log_sigma) + constant

    def _start_from_data(self, squared: Tensor) -> None:
        self.learned = False  # once a process: asking the device every step would stall it
        if self.num_batches == 0:
            self.num_batches += 1
            with torch.no_grad():
                self.log_sigma.copy_(0.5 * torch.log(squared.mean() + 1e-6))

    def _batch_log_sigma(self, squared: Tensor) -> Tensor:
        log_sigma = 0.5 * torch.log(squared.mean() + 1e-6)
        with torch.no_grad():
            self.num_batches += 1
            weight = (1.0 / self.num_batches).clamp(min=self.momentum)  # a plain average at first
            self.log_sigma.lerp_(log_sigma.detach(), weight)
        return log_sigma
