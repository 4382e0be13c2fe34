"""The anchored prior: a coarse latent w of the image sets mean and scale of the prior of the latent z.

    q(w|x) = N(m_w, exp l_w),  p(w) = N(0, I),  p(z|w) = N(m(w), s(w)^2),  q(z|x) = N(mean, std^2)
    loss = nll + KL(q(w|x) || p(w)) + E_w KL(q(z|x) || p(z|w)),  minus the ELBO

after the hyperprior of Balle et al. (2018, section 3), with Gaussians and a mean as in Minnen et al. (2018, eq. 5).
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from saaae.errors import UserError
from saaae.layers.attention import SelfAttention
from saaae.posteriors.gaussian import DiagonalGaussian, GaussianHeads, soft_bound
from saaae.posteriors.importance import tokens_of
from saaae.posteriors.learned_prior import HyperPrior, LearnedPrior, pooled
from saaae.posteriors.prior import StandardPrior, standard_log_prob
from saaae.ranges import PositiveInt
from saaae.rng import RandomSource
from saaae.types import Draw


class PriorGaussian(DiagonalGaussian):
    """q(z|x) = N(mean, exp(logvar)), with p(z) = N(m, s^2) in place of N(0, I).

    Args:
        mean: (B, D) or (B, C, H, W), float32.
        logvar: Log variance, same shape.
        prior: p(z) of each image, same shape.
    """

    def __init__(self, mean: Tensor, logvar: Tensor, prior: DiagonalGaussian) -> None:
        super().__init__(mean, logvar)
        self._prior = prior

    @property
    def prior(self) -> DiagonalGaussian:
        """p(z) of each image."""
        return self._prior

    def _kl_of_dimensions(self) -> Tensor:
        difference, ratio = self.mean - self.prior.mean, self.logvar - self.prior.logvar
        squared = difference**2 * torch.exp(-self.prior.logvar)
        return 0.5 * (squared + torch.exp(ratio) - 1.0 - ratio).flatten(1)

    def draw(self, rng: RandomSource) -> Draw:
        """A sample with its log densities under the prior and the posterior."""
        z = self.rsample(rng)
        return Draw(z, self.prior.log_prob(z), self.log_prob(z))

    @property
    def prior_mean(self) -> Tensor:
        """m, in the shape of the mode."""
        return self.prior.mean

    @property
    def prior_scale(self) -> Tensor:
        """s, in the shape of z."""
        return (0.5 * self.prior.logvar).exp()

    @property
    def standardised(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of each dimension (B, D), in standard deviations of the prior from its mean."""
        precision = torch.exp(-self.prior.logvar)
        return ((self.mean - self.prior.mean) * precision.sqrt()).flatten(1), (self.logvar.exp() * precision).flatten(1)


class HyperEncoder(nn.Module):
    """q(w|x) from tokens, the average pool of the features over a coarse grid.

    Args:
        feature_shape: (C, H, W) of the encoder's features.
        w_shape: (K,), or (K, h, w) of a map, with its own grid.
        grid: Rows and columns of the tokens.
        attention: Add self-attention over the tokens.
    """

    def __init__(
        self, feature_shape: Sequence[int], w_shape: Sequence[int], grid: tuple[int, int], attention: bool
    ) -> None:
        super().__init__()
        channels, self.grid, self.w_shape = feature_shape[0], grid, tuple(w_shape)
        self.attention = SelfAttention(channels, channels) if attention else None
        is_map = len(w_shape) == 3
        self.heads = nn.Linear(channels if is_map else channels * grid[0] * grid[1], 2 * w_shape[0])

    def forward(self, features: Tensor) -> DiagonalGaussian:
        """Features (B, C, H, W) to q(w|x), float32 under any precision."""
        with torch.autocast(features.device.type, enabled=False):
            tokens = tokens_of(pooled(features.float(), *self.grid))
            if self.attention is not None:
                tokens = tokens + self.attention(tokens)
            if len(self.w_shape) == 1:
                values = self.heads(tokens.flatten(1))
            else:
                values = self.heads(tokens).transpose(1, 2).unflatten(2, self.grid)
            mean, logvar = values.chunk(2, 1)
            return DiagonalGaussian(mean, soft_bound(logvar))


class AnchoredPriorGaussian(PriorGaussian):
    """q(w|x) q(z|x) over the prior p(w) p(z|w). Its KL has an expectation over w, of which it takes one sample.

    Nothing of w is computed before it is asked for: a reconstruction from the mean does not need it. The sample of w is
    drawn when it is first needed, so that the order of `rsample` and `kl` decides which random numbers each gets.

    Args:
        mean: (B, D) or (B, C, H, W), float32: that of q(z|x).
        logvar: Its log variance, same shape.
        features: (B, C', H', W'), which w encodes.
        encoder: Makes q(w|x) of them.
        hyper: p(w) and p(z|w).
        rng: Source of the sample of w in the KL.
    """

    def __init__(
        self,
        mean: Tensor,
        logvar: Tensor,
        features: Tensor,
        encoder: HyperEncoder,
        hyper: HyperPrior,
        rng: RandomSource,
    ) -> None:
        self.mean, self.heads_logvar, self.hyper = mean, logvar, hyper
        self._features, self._encoder, self._rng = features, encoder, rng

    @cached_property
    def q_w(self) -> DiagonalGaussian:
        """q(w|x)."""
        return self._encoder(self._features)

    @cached_property
    def w(self) -> Tensor:
        """The sample of w (B, *w_shape) in the KL."""
        return self.q_w.rsample(self._rng)

    @cached_property
    def _of_sample(self) -> PriorGaussian:
        return self._over(self.w)

    @cached_property
    def _of_mean(self) -> PriorGaussian:
        return self._over(self.q_w.mean)

    def _over(self, w: Tensor) -> PriorGaussian:
        """q(z|x) over p(z|w)."""
        prior = self.hyper.given(w, self.mean.shape[2:])
        logvar = self.heads_logvar + prior.logvar if self.hyper.couple_noise else self.heads_logvar
        return PriorGaussian(self.mean, logvar, prior)

    @property
    def logvar(self) -> Tensor:  # type: ignore[override]
        """Log variance of q(z|x), under `couple_noise` given the sample of w."""
        return self._of_sample.logvar if self.hyper.couple_noise else self.heads_logvar

    @property
    def mode(self) -> Tensor:
        """What the decoder takes of the means of z and w."""
        return self.hyper.latents(self.mean, self.q_w.mean) if self.hyper.decoder_sees_w else self.mean

    def rsample(self, rng: RandomSource) -> Tensor:
        """A sample of z and, where the decoder takes it, the sample of w in the KL."""
        z = super().rsample(rng)
        return self.hyper.latents(z, self.w) if self.hyper.decoder_sees_w else z

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of z (B,), of which further channels that the decoder takes are no part, in nats."""
        return super().log_prob(z[:, : self.mean.shape[1]])

    def draw(self, rng: RandomSource) -> Draw:
        """New samples of w and z, with the log densities of both."""
        w = self.q_w.rsample(rng)
        z, log_prior, log_posterior = self._over(w).draw(rng)
        log_prior, log_posterior = log_prior + standard_log_prob(w), log_posterior + self.q_w.log_prob(w)
        return Draw(self.hyper.latents(z, w), log_prior, log_posterior)

    @property
    def kl_effective(self) -> Tensor:
        """KL(q(w|x) || N(0, I)) + KL(q(z|x) || p(z|w)) (B,) in nats, for one sample of w."""
        return self.q_w.kl + self._kl_of_dimensions().sum(1)

    def _kl_of_dimensions(self) -> Tensor:
        return self._of_sample._kl_of_dimensions()

    @property
    def kl_effective_per_dimension(self) -> Tensor:
        """KL(q(z|x) || p(z|w)) of each dimension of z (B, D) in nats, for w at its mean: without noise."""
        return self._of_mean._kl_of_dimensions()

    @property
    def prior(self) -> DiagonalGaussian:
        """p(z|w) of each image, for the sample of w."""
        return self._of_sample.prior

    @property
    def standardised(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of each dimension of z (B, D), relative to p(z|w) for w at its mean."""
        return self._of_mean.standardised

    @property
    def prior_scale(self) -> Tensor:
        """s(w) for w at its mean, in the shape of z."""
        return self._of_mean.prior_scale

    @property
    def prior_mean(self) -> Tensor:
        """m(w) for w at its mean, in the shape of the mode."""
        return self.hyper.latents(self._of_mean.prior.mean, self.q_w.mean)

    def diagnostics(self) -> dict[str, Tensor]:
        """The share of w in the KL (B,), in nats."""
        return {"kl_w": self.q_w.kl}


class AnchoredPriorPosterior(nn.Module):
    """q(w|x) q(z|x) with the prior p(w) p(z|w), or q(z|x) with one of its controls.

    Args:
        feature_shape: (C, H, W) of the encoder's features.
        latent_shape: (D,) or (C', H, W).
        prior: `hyper`: p(z|w). `learned`: a trained mean and scale of each cell and channel, the same for all images.
            `standard`: N(0, I), the plain VAE bit for bit. `hyper_shuffled`: p(z|w) with the w of the previous image in
            the batch, in training and tests; an image alone in its batch keeps its own. Its ELBO is
            still a lower bound of log p(x), but its value depends on which image is the neighbour, so on the batches.
        grid: Rows and columns of the tokens from which w is computed; smaller features have a cell each.
        w_channels: Channels of w for a latent map; w has a cell for each token.
        w_dim: Size of w for a latent vector.
        hidden: Width of the network from w to the prior.
        attention: Self-attention over the tokens.
        couple_noise: Multiply the noise by the scale of the prior, s(w).
        decoder_sees_w: Give w to the decoder too.

    Raises:
        UserError: If a setting of w is on without a w of the image.
    """

    stochastic = True
    prior: HyperPrior | LearnedPrior | StandardPrior

    def __init__(
        self,
        *,
        feature_shape: Sequence[int],
        latent_shape: Sequence[int],
        prior: Literal["hyper", "learned", "standard", "hyper_shuffled"],
        grid: PositiveInt,
        w_channels: PositiveInt,
        w_dim: PositiveInt,
        hidden: PositiveInt,
        attention: bool,
        couple_noise: bool,
        decoder_sees_w: bool,
    ) -> None:
        super().__init__()
        for name, value in {"couple_noise": couple_noise, "decoder_sees_w": decoder_sees_w}.items():
            if value and prior != "hyper":
                raise UserError(f"posterior.{name}=true: posterior.prior={prior} has no w of the image; expected hyper")
        self.factorized = prior in ("learned", "standard")  # else KL(q(w|x) || p(w)) is no part of the sum
        self.shuffled = prior == "hyper_shuffled"
        self.heads = GaussianHeads(feature_shape, latent_shape)
        self.decoder_shape = tuple(latent_shape)
        if prior == "standard":
            self.prior = StandardPrior()
        elif prior == "learned":
            self.prior = LearnedPrior(latent_shape)
        else:
            cells = (min(grid, feature_shape[1]), min(grid, feature_shape[2]))
            w_shape = (w_dim,) if len(latent_shape) == 1 else (w_channels, *cells)
            self.encoder = HyperEncoder(feature_shape, w_shape, cells, attention)
            self.prior = HyperPrior(latent_shape, w_shape, hidden, couple_noise, decoder_sees_w)
            self.decoder_shape = (latent_shape[0] + w_shape[0] * decoder_sees_w, *latent_shape[1:])

    def forward(self, features: Tensor, rng: RandomSource) -> DiagonalGaussian:
        """Features (B, C, H, W) to the posterior of the batch, float32 under any precision."""
        mean, logvar = self.heads(features)
        if isinstance(self.prior, StandardPrior):
            return DiagonalGaussian(mean, logvar)
        if isinstance(self.prior, LearnedPrior):
            return PriorGaussian(mean, logvar, self.prior.over(mean))
        if self.shuffled:
            features = features.roll(1, 0)  # w is that of the previous image
        return AnchoredPriorGaussian(mean, logvar, features, self.encoder, self.prior, rng)
