"""The diagonal Gaussian posterior, its heads, and the delta posterior of a deterministic autoencoder."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from saaae.posteriors.prior import OverStandardPrior
from saaae.ranges import LOGVAR_MAX, LOGVAR_MIN
from saaae.rng import RandomSource


def soft_bound(x: Tensor, low: float = LOGVAR_MIN, high: float = LOGVAR_MAX) -> Tensor:
    """Smoothly bounds `x` to (low, high); within 1e-3 of the identity 7 units away from the bounds."""
    x = high - softplus(high - x)
    return low + softplus(x - low)


class DiagonalGaussian(OverStandardPrior):
    """N(mean, diag(exp(logvar))) over the latents of a batch.

    Args:
        mean: (B, D) or (B, C, H, W), float32.
        logvar: Log variance, same shape.
    """

    stochastic = True

    def __init__(self, mean: Tensor, logvar: Tensor) -> None:
        self.mean, self.logvar = mean, logvar

    @property
    def mode(self) -> Tensor:
        return self.mean

    def rsample(self, rng: RandomSource) -> Tensor:
        """mean + std * eps (Kingma and Welling 2014, section 2.4)."""
        return self.mean + torch.exp(0.5 * self.logvar) * rng.normal(self.mean)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of `z` (B,) in nats."""
        squared = (z - self.mean) ** 2 * torch.exp(-self.logvar)
        return -0.5 * (squared + self.logvar + math.log(2 * math.pi)).flatten(1).sum(1)

    @property
    def kl_effective(self) -> Tensor:
        """KL(N(mean, exp(logvar)) || N(0, I)) (B,) in nats (Kingma and Welling 2014, appendix B)."""
        return self._kl_of_dimensions().sum(1)

    def _kl_of_dimensions(self) -> Tensor:
        return 0.5 * (self.mean**2 + torch.exp(self.logvar) - 1.0 - self.logvar).flatten(1)

    @property
    def kl(self) -> Tensor:
        """The KL term of the loss: equal to `kl_effective`."""
        return self.kl_effective

    @property
    def kl_per_dimension(self) -> Tensor | None:
        """KL of each latent dimension (B, D) in nats."""
        return self._kl_of_dimensions()

    @property
    def kl_effective_per_dimension(self) -> Tensor | None:
        """KL of each latent dimension (B, D) in nats, of the distribution that is sampled from."""
        return self._kl_of_dimensions()

    @property
    def variance(self) -> Tensor:
        """Variance of each latent dimension (B, D)."""
        return torch.exp(self.logvar).flatten(1)

    def diagnostics(self) -> Mapping[str, Tensor]:
        return {}


class Delta(OverStandardPrior):
    """All mass at one latent: no noise, and no KL that a bound could contain.

    Args:
        mean: (B, D) or (B, C, H, W).
    """

    stochastic = False

    def __init__(self, mean: Tensor) -> None:
        self.mean = mean

    @property
    def mode(self) -> Tensor:
        return self.mean

    def rsample(self, rng: RandomSource) -> Tensor:
        return self.mode

    def log_prob(self, z: Tensor) -> Tensor:
        """Not a density: infinite at the latent, minus infinity elsewhere (B,)."""
        equal = (z == self.mode).flatten(1).all(1)
        return torch.where(equal, math.inf, -math.inf)

    @property
    def kl_effective(self) -> Tensor:
        """Infinite: a point carries unlimited information (B,)."""
        return torch.full((len(self.mode),), math.inf, device=self.mode.device)

    @property
    def kl(self) -> Tensor:
        """The KL term of the loss: zeros (B,)."""
        return torch.zeros(len(self.mode), device=self.mode.device)

    @property
    def kl_per_dimension(self) -> Tensor | None:
        return None

    @property
    def variance(self) -> Tensor:
        return torch.zeros_like(self.mode).flatten(1)

    def diagnostics(self) -> Mapping[str, Tensor]:
        return {}


class GaussianHeads(nn.Module):
    """Mean and softly bounded log variance from features: linear for a latent vector, 1x1 convolutions for a map.

    Args:
        feature_shape: (C, H, W) of the encoder's features.
        latent_shape: (D,) or (C', H, W).
    """

    def __init__(self, feature_shape: Sequence[int], latent_shape: Sequence[int]) -> None:
        super().__init__()
        self.mean, self.logvar = (self.head(feature_shape, latent_shape) for _ in range(2))

    @staticmethod
    def head(feature_shape: Sequence[int], latent_shape: Sequence[int]) -> nn.Module:
        """One linear map from features to values in the shape of the latent."""
        if len(latent_shape) == 1:
            return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(feature_shape), latent_shape[0]))
        return nn.Conv2d(feature_shape[0], latent_shape[0], 1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, C, H, W) to mean and log variance (B, *latent_shape), float32 under any precision."""
        return self.mean(features).float(), soft_bound(self.logvar(features).float())


class DiagonalPosterior(nn.Module):
    """q(z|x) = N(mean, diag(std^2)), the plain VAE's.

    Args:
        feature_shape: (C, H, W) of the encoder's features.
        latent_shape: (D,) or (C', H, W).
    """

    stochastic = True
    factorized = True
    """Whether the KL is a sum over dimensions."""

    def __init__(self, *, feature_shape: Sequence[int], latent_shape: Sequence[int]) -> None:
        super().__init__()
        self.heads = GaussianHeads(feature_shape, latent_shape)

    def forward(self, features: Tensor, rng: RandomSource) -> DiagonalGaussian:
        """Features (B, C, H, W) to the posterior of the batch."""
        return DiagonalGaussian(*self.heads(features))


class DeltaPosterior(nn.Module):
    """A deterministic latent: the features themselves where their shape is the latent's, else a linear map of them.

    Args:
        feature_shape: (C, H, W) of the encoder's features.
        latent_shape: (D,) or (C', H, W).
    """

    stochastic = False

    def __init__(self, *, feature_shape: Sequence[int], latent_shape: Sequence[int]) -> None:
        super().__init__()
        same = tuple(feature_shape) == tuple(latent_shape)
        self.code = nn.Identity() if same else GaussianHeads.head(feature_shape, latent_shape)

    def forward(self, features: Tensor, rng: RandomSource) -> Delta:
        """Features (B, C, H, W) to the latents of the batch, float32 under any precision."""
        return Delta(self.code(features).float())
