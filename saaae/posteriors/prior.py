"""What a posterior is compared with: the distribution of latents without an image."""

import math
from typing import Protocol

import torch
from torch import Tensor

from saaae.rng import RandomSource
from saaae.types import Draw


class Prior(Protocol):
    """A distribution p(z) of latents (N, *latent_shape)."""

    name: str
    """How a picture names it."""
    is_standard: bool
    """Whether it is N(0, I)."""

    def sample(self, like: Tensor, rng: RandomSource) -> Tensor:
        """Latents for the decoder, as many and as large as `like` (N, *latent_shape)."""
        ...

    def mean(self, like: Tensor) -> Tensor:
        """The most ordinary latents, as many and as large as `like` (N, *latent_shape)."""
        ...


class StandardPrior:
    """p(z) = N(0, I)."""

    name, is_standard = "N(0, I)", True

    def sample(self, like: Tensor, rng: RandomSource) -> Tensor:
        """Standard normal latents in the shape of `like` (N, *latent_shape)."""
        return rng.normal(like)

    def mean(self, like: Tensor) -> Tensor:
        """Zeros in the shape of `like` (N, *latent_shape)."""
        return torch.zeros_like(like)


def standard_log_prob(z: Tensor) -> Tensor:
    """Log density (B,) of latents (B, ...) under N(0, I), in nats."""
    return -0.5 * (z**2 + math.log(2 * math.pi)).flatten(1).sum(1)


class OverStandardPrior:
    """Base of the posteriors whose prior is N(0, I)."""

    @property
    def mode(self) -> Tensor:
        raise NotImplementedError

    def rsample(self, rng: RandomSource) -> Tensor:
        raise NotImplementedError

    def log_prob(self, z: Tensor) -> Tensor:
        raise NotImplementedError

    def draw(self, rng: RandomSource) -> Draw:
        """A sample with its log densities under the prior and the posterior."""
        z = self.rsample(rng)
        return Draw(z, standard_log_prob(z), self.log_prob(z))

    @property
    def prior_mean(self) -> Tensor:
        """Zeros in the shape of the mode: what a latent without information is."""
        return torch.zeros_like(self.mode)

    @property
    def prior_scale(self) -> Tensor:
        """Ones in the shape of the mode."""
        return torch.ones_like(self.mode)

    @property
    def variance(self) -> Tensor:
        raise NotImplementedError

    @property
    def standardised(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of each dimension (B, D), relative to the prior's: those of the posterior, for N(0, I)."""
        return self.mode.flatten(1), self.variance

    @property
    def kl_effective_per_dimension(self) -> Tensor | None:
        """None: the KL is not a sum over dimensions."""
        return None
