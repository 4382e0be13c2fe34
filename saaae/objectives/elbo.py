"""The evidence lower bound and its parts, in nats per image."""

import math

from torch import Tensor

from saaae.objectives.beta import ConstantBeta
from saaae.types import Loss, Posterior


def beta_elbo_loss(nll: Tensor, posterior: Posterior, beta: ConstantBeta, step: int) -> Loss:
    """`loss = nll + beta * kl` (Higgins et al. 2017, eq. 4), means over the batch; beta = 1 is minus the ELBO.

    Args:
        nll: Negative log likelihood (B,) in nats.
        posterior: Posterior whose KL enters the loss.
        beta: Weight of the KL; free bits and a capacity have penalties of their own.
        step: Optimizer step, counted from 0.
    """
    nll = nll.mean()
    penalty = beta.penalty(posterior, step)
    return Loss(nll + penalty, nll, posterior.kl.mean(), beta(step))


def bits_per_dimension(elbo: Tensor, num_dimensions: int, discrete: bool) -> Tensor:
    """Minus the ELBO in bits per pixel and channel; a density on [0, 1] is given for 8-bit pixels (plus 8 bits)."""
    return -elbo / (num_dimensions * math.log(2)) + (0.0 if discrete else 8.0)
