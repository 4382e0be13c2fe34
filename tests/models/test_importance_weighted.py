"""The importance-weighted bound for a model whose likelihood is known in closed form."""

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal

from saaae.models.autoencoder import ImageAutoencoder
from saaae.models.optimization import Optimization
from saaae.objectives.beta import ConstantBeta
from saaae.objectives.likelihood import Gaussian
from saaae.posteriors.anchored_prior import AnchoredPriorPosterior
from saaae.posteriors.gaussian import DiagonalGaussian
from saaae.rng import GlobalRandom, IndexedRandom
from saaae.types import Batch

SIGMA, SIDE, LATENT = 0.5, 3, 2
WEIGHT = torch.randn(SIDE * SIDE, LATENT, generator=torch.Generator().manual_seed(0))


class Encoder(nn.Identity):
    output_shape = (1, SIDE, SIDE)


class Decoder(nn.Module):
    def forward(self, z):
        return (z @ WEIGHT.T).view(-1, 1, SIDE, SIDE)


class NearPosterior(nn.Module):
    """The exact posterior mean, with independent variances that are slightly too large."""

    stochastic = True

    def forward(self, features, rng):
        precision = torch.eye(LATENT) + WEIGHT.T @ WEIGHT / SIGMA**2
        covariance = torch.linalg.inv(precision)
        mean = features.flatten(1) @ WEIGHT @ covariance / SIGMA**2
        return DiagonalGaussian(mean, torch.log(1.2 * covariance.diagonal()).expand_as(mean))


@pytest.fixture
def linear():
    """x = W z + sigma eps, z ~ N(0, I)."""
    return ImageAutoencoder(
        image_size=SIDE,
        image_channels=1,
        latent_dim=LATENT,
        latent_channels=None,
        encoder=lambda image_shape: Encoder(),
        posterior=lambda feature_shape, latent_shape: NearPosterior(),
        decoder=lambda latent_shape, image_shape: Decoder(),
        likelihood=Gaussian(sigma=SIGMA, activation="none"),
        beta=ConstantBeta(value=1.0),
        optimizer=Optimization(
            algorithm=torch.optim.Adam, lr=1e-3, gradient_clip=None, schedule="constant", warmup_steps=0
        ),
    ).eval()


@pytest.fixture
def images():
    g = torch.Generator().manual_seed(1)
    z = torch.randn(6, LATENT, generator=g)
    return (z @ WEIGHT.T + SIGMA * torch.randn(6, SIDE * SIDE, generator=g)).view(6, 1, SIDE, SIDE)


def batch_of(x, rng=None):
    return Batch(x, x, torch.arange(len(x)), rng or GlobalRandom())


@torch.no_grad()
def test_the_bound_reaches_the_known_likelihood(linear, images):
    torch.manual_seed(0)
    covariance = WEIGHT @ WEIGHT.T + SIGMA**2 * torch.eye(SIDE * SIDE)
    exact = MultivariateNormal(torch.zeros(SIDE * SIDE), covariance).log_prob(images.flatten(1))
    bound = linear.importance_weighted_bound(batch_of(images), 20_000)
    assert (bound - exact).abs().max() < 0.01


@torch.no_grad()
def test_more_samples_tighten_the_bound_and_one_is_the_elbo(linear, images):
    torch.manual_seed(0)
    many = images.repeat(500, 1, 1, 1)
    one, five, fifty = (float(linear.importance_weighted_bound(batch_of(many), k).mean()) for k in (1, 5, 50))
    assert one < five < fifty
    batch = batch_of(many)
    posterior = linear.encode(batch)
    nll = linear.likelihood.nll(linear.decoder_output(posterior.rsample(batch.rng), batch), batch.target)
    assert one == pytest.approx(float(-(nll + posterior.kl).mean()), abs=0.1)


@torch.no_grad()
def test_the_importance_weighted_bound_of_an_image_does_not_depend_on_its_batch(linear, images):
    whole = linear.importance_weighted_bound(batch_of(images, IndexedRandom(0, torch.arange(6))), 7)
    some = torch.tensor([4, 1])
    part = batch_of(images[some], IndexedRandom(0, some))
    torch.testing.assert_close(linear.importance_weighted_bound(part, 7), whole[some], rtol=1e-4, atol=1e-4)


class LinearHyperprior(nn.Module):
    """z = A w + s eps of w ~ N(0, 1): the bound has two latent variables, the likelihood is still known."""

    stochastic = True

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.posterior = AnchoredPriorPosterior(
            feature_shape=(1, SIDE, SIDE), latent_shape=(LATENT,), prior="hyper", grid=SIDE, w_channels=1, w_dim=1,
            hidden=4, attention=False, couple_noise=False, decoder_sees_w=False,
        )  # fmt: skip
        self.prior, self.decoder_shape = self.posterior.prior, (LATENT,)
        self.prior.network = nn.Linear(1, 2 * LATENT)
        with torch.no_grad():
            self.prior.network.weight.copy_(torch.tensor([[0.8], [-0.5], [0.0], [0.0]]))
            self.prior.network.bias.copy_(torch.tensor([0.3, 0.1, -0.2, -0.6]))

    @property
    def prior_covariance(self):
        a, scale = self.prior.network.weight[:LATENT], 3 * torch.tanh(self.prior.network.bias[LATENT:] / 3)
        return a @ a.T + torch.diag(torch.exp(2 * scale))

    def forward(self, features, rng):
        q = self.posterior(features, rng)
        near = torch.linalg.inv(torch.linalg.inv(self.prior_covariance) + WEIGHT.T @ WEIGHT / SIGMA**2)
        shift = torch.linalg.solve(self.prior_covariance, self.prior.network.bias[:LATENT])
        q.mean = (features.flatten(1) @ WEIGHT / SIGMA**2 + shift) @ near
        q.heads_logvar = torch.log(1.2 * near.diagonal()).expand_as(q.mean)
        return q


@torch.no_grad()
def test_the_bound_over_two_latents_reaches_the_known_likelihood(linear, images):
    linear.posterior = LinearHyperprior()
    torch.manual_seed(0)
    covariance = WEIGHT @ linear.posterior.prior_covariance @ WEIGHT.T + SIGMA**2 * torch.eye(SIDE * SIDE)
    mean = WEIGHT @ linear.posterior.prior.network.bias[:LATENT]
    exact = MultivariateNormal(mean, covariance).log_prob(images.flatten(1))
    bound = linear.importance_weighted_bound(batch_of(images), 40_000)
    assert (bound - exact).abs().max() < 0.05
    batch = batch_of(images.repeat(500, 1, 1, 1))
    posterior = linear.encode(batch)
    nll = linear.likelihood.nll(linear.decoder_output(posterior.rsample(batch.rng), batch), batch.target)
    elbo = float(-(nll + posterior.kl).mean())
    one, five, fifty = (float(linear.importance_weighted_bound(batch, k).mean()) for k in (1, 5, 50))
    assert one == pytest.approx(elbo, abs=0.1)
    assert one < five < fifty < float(exact.mean())
