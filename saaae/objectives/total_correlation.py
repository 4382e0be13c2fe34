"""beta-TCVAE: a weight on the total correlation of the latents alone, and the parts of the KL."""

import itertools
import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from saaae.errors import UserError
from saaae.objectives.beta import LinearBeta
from saaae.objectives.processes import gathered
from saaae.posteriors.gaussian import DiagonalGaussian
from saaae.posteriors.prior import StandardPrior, standard_log_prob
from saaae.rng import GlobalRandom
from saaae.types import Posterior


class KLParts(NamedTuple):
    """The mean KL to N(0, I) of a sample of latents in three parts (Chen et al. 2018, eq. 2), scalars in nats.

    Attributes:
        index_code_mi: E log q(z|x) - log q(z): mutual information of image and latent, at most the log of the batch.
        total_correlation: E log q(z) - sum_j log q(z_j): how far the latents are from independent.
        dimension_kl: E sum_j log q(z_j) - log p(z): how far each latent is from its prior.
    """

    index_code_mi: Tensor
    total_correlation: Tensor
    dimension_kl: Tensor


def kl_parts(posterior: DiagonalGaussian, z: Tensor) -> KLParts:
    """The parts for q(z) = 1/B sum_i q(z|x_i), the mixture over the batch of all processes.

    Minibatch-weighted sampling (eq. 3) has the size of the data set as a further constant, and the same gradient. For a
    sample z the parts add up to the mean of log q(z|x) - log p(z).

    Args:
        posterior: q(z|x) of B images, with D latent values each. Memory grows with B squared times D.
        z: A sample of it, in the shape of its mean.
    """
    codes, mean, logvar = (part.flatten(1) for part in (z, posterior.mean, posterior.logvar))
    mean, logvar = gathered(mean), gathered(logvar)
    squared = (codes[:, None] - mean) ** 2 * torch.exp(-logvar)
    densities = -0.5 * (squared + logvar + math.log(2 * math.pi))
    joint = torch.logsumexp(densities.sum(2), 1) - math.log(len(mean))
    marginals = (torch.logsumexp(densities, 1) - math.log(len(mean))).sum(1)
    steps = (posterior.log_prob(z), joint, marginals, standard_log_prob(z))
    return KLParts(*((upper - lower).mean() for upper, lower in itertools.pairwise(steps)))


class TotalCorrelationBeta(LinearBeta):
    """KL + (beta - 1) * total correlation (beta-TCVAE, Chen et al. 2018, eq. 4 with alpha = gamma = 1).

    The KL is exact, the total correlation is estimated from the batch and one sample of each posterior; it is 0 for a
    batch of one image. Under gradient accumulation each part of a step's batch is a mixture of its own.

    Args:
        value: Weight of the total correlation; 1 is the ELBO.
        warmup: How long the weight rises from 0: steps (integer) or a fraction of the run (float).
    """

    _parts: KLParts | None = None

    def check(self, posterior: nn.Module) -> None:
        """Your own posterior module declares by `factorized = True` that it returns a `DiagonalGaussian`."""
        is_standard = getattr(posterior, "prior", StandardPrior()).is_standard
        is_nominal = getattr(posterior, "objective", None) == "nominal"
        if is_nominal or not is_standard or not getattr(posterior, "factorized", False):
            raise UserError(
                "beta=total_correlation: needs a Gaussian posterior with independent dimensions over N(0, I); expected "
                "posterior=diagonal, posterior=anchored but not posterior.kl=nominal, or posterior.prior=standard"
            )

    def penalty(self, posterior: Posterior, step: int) -> Tensor:
        """The weighted sum."""
        if not isinstance(posterior, DiagonalGaussian):
            raise UserError(
                f"beta=total_correlation: the posterior gives a {type(posterior).__name__}; expected a DiagonalGaussian"
            )
        parts = kl_parts(posterior, posterior.rsample(GlobalRandom()))
        self._parts = KLParts(*(part.detach() for part in parts))
        return posterior.kl.mean() + (self(step) - 1.0) * parts.total_correlation

    def diagnostics(self) -> Mapping[str, Tensor]:
        """The parts of the KL of the last batch."""
        return self._parts._asdict() if self._parts else {}
