"""Gaussian posteriors with correlated latent dimensions: full covariance, and low rank plus diagonal."""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from saaae.errors import UserError
from saaae.posteriors.gaussian import GaussianHeads
from saaae.posteriors.prior import OverStandardPrior
from saaae.ranges import PositiveInt
from saaae.rng import RandomSource

SPREAD = 3.0
"""Bound on an off-diagonal entry of a Cholesky or low-rank factor, in standard deviations of its row."""


def product(a: Tensor, b: Tensor) -> Tensor:
    """Matrix product in the precision of its factors, also under autocast, which would halve it."""
    with torch.autocast(a.device.type, enabled=False):
        return a @ b


class _CorrelatedGaussian(OverStandardPrior):
    """Base: N(mean, covariance) over the D latent values of each image, whose KL is not a sum over them.

    Latents are vectors (B, D) or, where a subclass allows it, maps (B, C, H, W) with D = C H W; all is float32.
    """

    stochastic = True
    mean: Tensor

    @property
    def mode(self) -> Tensor:
        return self.mean

    def rsample(self, rng: RandomSource) -> Tensor:
        """A reparameterised sample, shaped like the mean."""
        raise NotImplementedError

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of `z` (B,) in nats."""
        difference = (z - self.mean).flatten(1)
        return -0.5 * (self.mahalanobis(difference) + self.log_det + difference.shape[1] * math.log(2 * math.pi))

    def mahalanobis(self, difference: Tensor) -> Tensor:
        """Squared Mahalanobis length (B,) of differences (B, D)."""
        raise NotImplementedError

    @property
    def log_det(self) -> Tensor:
        """Log determinant of the covariance (B,)."""
        raise NotImplementedError

    @property
    def variance(self) -> Tensor:
        """Marginal variances (B, D): the diagonal of the covariance."""
        raise NotImplementedError

    @property
    def kl_effective(self) -> Tensor:
        """KL(N(mean, covariance) || N(0, I)) (B,) in nats."""
        return 0.5 * ((self.variance + self.mean.flatten(1) ** 2 - 1.0).sum(1) - self.log_det)

    @property
    def kl(self) -> Tensor:
        """The KL term of the loss: equal to `kl_effective`."""
        return self.kl_effective

    @property
    def kl_per_dimension(self) -> Tensor | None:
        """None: the KL is not a sum over dimensions."""
        return None

    def diagnostics(self) -> Mapping[str, Tensor]:
        return {}


class CholeskyGaussian(_CorrelatedGaussian):
    """N(mean, L L^T).

    Args:
        mean: (B, D).
        factor: Lower triangular L (B, D, D) with a positive diagonal.
    """

    def __init__(self, mean: Tensor, factor: Tensor) -> None:
        self.mean, self.factor = mean, factor

    def rsample(self, rng: RandomSource) -> Tensor:
        """mean + L eps (Kingma and Welling 2019, section 2.5.1)."""
        return self.mean + product(self.factor, rng.normal(self.mean)[..., None])[..., 0]

    def mahalanobis(self, difference: Tensor) -> Tensor:
        white = torch.linalg.solve_triangular(self.factor, difference[..., None], upper=False)
        return (white**2).sum((1, 2))

    @property
    def log_det(self) -> Tensor:
        """Twice the sum of the logs of L's diagonal."""
        return 2.0 * self.factor.diagonal(dim1=1, dim2=2).log().sum(1)

    @property
    def variance(self) -> Tensor:
        return (self.factor**2).sum(2)


class LowRankGaussian(_CorrelatedGaussian):
    """N(mean, diag(exp(logvar)) + U U^T); no D x D matrix is ever made.

    Args:
        mean: (B, D) or (B, C, H, W).
        logvar: Log of the diagonal part, same shape.
        factor: U (B, D, R).
    """

    def __init__(self, mean: Tensor, logvar: Tensor, factor: Tensor) -> None:
        self.mean, self.logvar, self.factor = mean, logvar.flatten(1), factor
        self._white = factor * torch.exp(-0.5 * self.logvar)[..., None]  # D^(-1/2) U

    @cached_property
    def _capacitance(self) -> Tensor:
        """Cholesky factor of I + U^T D^-1 U (B, R, R); a reconstruction from the mean does not need it."""
        eye = torch.eye(self.factor.shape[2], device=self.factor.device, dtype=self.factor.dtype)
        return torch.linalg.cholesky(eye + product(self._white.transpose(1, 2), self._white))

    def rsample(self, rng: RandomSource) -> Tensor:
        """mean + std * eps + U eps'."""
        common = product(self.factor, rng.normal(self.factor[:, 0])[..., None])
        own = torch.exp(0.5 * self.logvar) * rng.normal(self.logvar)
        return self.mean + (own + common[..., 0]).view_as(self.mean)

    def mahalanobis(self, difference: Tensor) -> Tensor:
        white = difference * torch.exp(-0.5 * self.logvar)
        projected = product(self._white.transpose(1, 2), white[..., None])
        inner = torch.linalg.solve_triangular(self._capacitance, projected, upper=False)
        return (white**2).sum(1) - (inner**2).sum((1, 2))

    @property
    def log_det(self) -> Tensor:
        """By the matrix determinant lemma: log det(I + U^T D^-1 U) + sum of the log variances."""
        return 2.0 * self._capacitance.diagonal(dim1=1, dim2=2).log().sum(1) + self.logvar.sum(1)

    @property
    def variance(self) -> Tensor:
        """The diagonal part plus the squared length of U's rows."""
        return torch.exp(self.logvar) + (self.factor**2).sum(2)


class FullCovariancePosterior(nn.Module):
    """q(z|x) = N(mean, L L^T) of a latent vector, with D (D + 1) / 2 covariance parameters.

    The rows of L are scaled by softly bounded standard deviations, so that none explodes, and L starts diagonal.

    Args:
        feature_shape: (C, H, W) of the encoder's features.
        latent_shape: (D,).

    Raises:
        UserError: If the latent is a map.
    """

    stochastic = True

    def __init__(self, *, feature_shape: Sequence[int], latent_shape: Sequence[int]) -> None:
        super().__init__()
        if len(latent_shape) != 1:
            raise UserError(
                f"posterior=full_covariance: too large over a latent map of {'x'.join(map(str, latent_shape))}; "
                "expected a vector (model.latent_dim), or posterior=low_rank or diagonal"
            )
        (self.size,) = latent_shape
        self.rows, self.columns = torch.tril_indices(self.size, self.size, -1)
        self.heads = GaussianHeads(feature_shape, latent_shape)
        self.below = nn.Linear(math.prod(feature_shape), len(self.rows))
        nn.init.zeros_(self.below.weight)
        nn.init.zeros_(self.below.bias)

    def forward(self, features: Tensor, rng: RandomSource) -> CholeskyGaussian:
        """Features (B, C, H, W) to the posterior of the batch, float32 under any precision."""
        mean, logvar = self.heads(features)
        below = SPREAD * torch.tanh(self.below(features.flatten(1)).float() / SPREAD)
        unit = torch.eye(self.size, device=mean.device).repeat(mean.shape[0], 1, 1)
        unit[:, self.rows, self.columns] = below
        return CholeskyGaussian(mean, torch.exp(0.5 * logvar)[..., None] * unit)


class LowRankPosterior(nn.Module):
    """q(z|x) = N(mean, D + U U^T) of a latent vector or over all values of a latent map.

    Args:
        feature_shape: (C, H, W) of the encoder's features.
        latent_shape: (D,) or (C', H, W).
        rank: Columns R of U.

    Raises:
        UserError: If the rank is not below the latent's size.
    """

    stochastic = True

    def __init__(self, *, feature_shape: Sequence[int], latent_shape: Sequence[int], rank: PositiveInt) -> None:
        super().__init__()
        if rank >= math.prod(latent_shape):
            raise UserError(f"posterior.rank={rank}: expected less than the {math.prod(latent_shape)} latent values")
        self.rank = rank
        self.heads = GaussianHeads(feature_shape, latent_shape)
        self.factor = GaussianHeads.head(feature_shape, (rank * latent_shape[0], *latent_shape[1:]))

    def forward(self, features: Tensor, rng: RandomSource) -> LowRankGaussian:
        """Features (B, C, H, W) to the posterior of the batch, float32 under any precision."""
        mean, logvar = self.heads(features)
        factor = self.factor(features).float().reshape(mean.shape[0], self.rank, -1).transpose(1, 2)
        spread = SPREAD * torch.tanh(factor / SPREAD)
        return LowRankGaussian(mean, logvar, torch.exp(0.5 * logvar).flatten(1)[..., None] * spread)
