import pytest
import torch
from torch.distributions import LowRankMultivariateNormal, MultivariateNormal, kl_divergence

from saaae.errors import UserError
from saaae.posteriors.covariance import (
    CholeskyGaussian,
    FullCovariancePosterior,
    LowRankGaussian,
    LowRankPosterior,
)
from saaae.posteriors.gaussian import DeltaPosterior, DiagonalGaussian, DiagonalPosterior
from saaae.rng import GlobalRandom, IndexedRandom


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def full(batch=5, size=4):
    factor = torch.tril(draw(batch, size, size), -1) + torch.diag_embed(draw(batch, size, seed=1).exp())
    return CholeskyGaussian(draw(batch, size, seed=2), factor)


def low_rank(batch=5, size=4, rank=2):
    return LowRankGaussian(draw(batch, size, seed=2), draw(batch, size, seed=1), draw(batch, size, rank))


def reference(q):
    if isinstance(q, CholeskyGaussian):
        return MultivariateNormal(q.mean, scale_tril=q.factor)
    return LowRankMultivariateNormal(q.mean.flatten(1), q.factor, torch.exp(q.logvar))


@pytest.mark.parametrize("make", [full, low_rank])
def test_kl_and_density_are_those_of_torch_distributions(make):
    q = make()
    prior = MultivariateNormal(torch.zeros(4, dtype=torch.float64), torch.eye(4, dtype=torch.float64))
    whole = MultivariateNormal(q.mean, reference(q).covariance_matrix)
    torch.testing.assert_close(q.kl, kl_divergence(whole, prior), rtol=1e-10, atol=1e-10)
    z = draw(5, 4, seed=3)
    torch.testing.assert_close(q.log_prob(z), reference(q).log_prob(z), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("make", [full, low_rank])
def test_samples_have_the_moments_used_in_the_kl(make):
    q = make(batch=1)
    torch.manual_seed(0)
    samples = torch.cat([repeat(q, 50_000).rsample(GlobalRandom()) for _ in range(4)]).double()
    covariance = reference(q).covariance_matrix[0]
    scale = covariance.diagonal().sqrt()
    torch.testing.assert_close(samples.mean(0), q.mean[0], rtol=0, atol=float(0.02 * scale.max()))
    correlation = (torch.cov(samples.T) - covariance) / (scale[:, None] * scale)
    assert correlation.abs().max() < 0.02


def repeat(q, count):
    """A batch of identical posteriors."""
    if isinstance(q, CholeskyGaussian):
        return CholeskyGaussian(*(t.float().expand(count, *t.shape[1:]) for t in (q.mean, q.factor)))
    return LowRankGaussian(*(t.float().expand(count, *t.shape[1:]) for t in (q.mean, q.logvar, q.factor)))


def test_without_a_low_rank_part_the_posterior_is_diagonal():
    mean, logvar = draw(3, 6), draw(3, 6, seed=1)
    q = LowRankGaussian(mean, logvar, torch.zeros(3, 6, 2, dtype=torch.float64))
    torch.testing.assert_close(q.kl, DiagonalGaussian(mean, logvar).kl)


def test_a_low_rank_posterior_of_a_map_covers_all_its_values():
    mean, logvar = draw(3, 2, 4, 4).float(), draw(3, 2, 4, 4, seed=1).float()
    q = LowRankGaussian(mean, logvar, draw(3, 32, 3, seed=4).float())
    assert q.rsample(GlobalRandom()).shape == mean.shape
    expected = LowRankMultivariateNormal(mean.flatten(1), q.factor, torch.exp(logvar.flatten(1)))
    torch.testing.assert_close(q.log_prob(mean + 0.1), expected.log_prob(mean.flatten(1) + 0.1))


def test_a_low_rank_posterior_never_makes_a_square_matrix():
    largest = []
    mean = torch.zeros(2, 2000, requires_grad=True)
    factor = torch.randn(2, 2000, 3, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: largest.append(t.numel()) or t, lambda t: t):
        q = LowRankGaussian(mean, torch.zeros(2, 2000), factor)
        (q.kl + q.log_prob(q.rsample(GlobalRandom()))).sum().backward()
    assert max(largest) <= 2 * 2000 * 3


POSTERIORS = {
    "diagonal": lambda latent: DiagonalPosterior(feature_shape=(8, 4, 4), latent_shape=latent),
    "full": lambda latent: FullCovariancePosterior(feature_shape=(8, 4, 4), latent_shape=latent),
    "low_rank": lambda latent: LowRankPosterior(feature_shape=(8, 4, 4), latent_shape=latent, rank=2),
}


@pytest.mark.parametrize("name", POSTERIORS)
@pytest.mark.parametrize("scale", [1.0, 1e4, -1e4])
def test_kl_samples_and_gradients_are_finite_for_extreme_features(name, scale):
    posterior = POSTERIORS[name]((5,))
    features = (scale * torch.randn(4, 8, 4, 4, generator=torch.Generator().manual_seed(0))).requires_grad_()
    q = posterior(features, GlobalRandom())
    z = q.rsample(GlobalRandom())
    assert torch.isfinite(q.kl).all()
    (q.kl.sum() + (z**2).sum() + q.log_prob(z).sum()).backward()
    assert torch.isfinite(features.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in posterior.parameters())


@pytest.mark.parametrize("name", POSTERIORS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_statistics_are_float32_in_half_precision(name, dtype):
    posterior = POSTERIORS[name]((5,)).to(dtype)
    q = posterior(torch.randn(2, 8, 4, 4).to(dtype) * 100, GlobalRandom())
    assert q.kl.dtype == q.mode.dtype == q.rsample(GlobalRandom()).dtype == torch.float32
    assert torch.isfinite(q.kl).all()


@pytest.mark.parametrize("name", ["full", "low_rank"])
def test_autocast_does_not_touch_the_statistics(name):
    posterior, features = POSTERIORS[name]((5,)), torch.randn(4, 8, 4, 4)
    exact = posterior(features, GlobalRandom())
    args = (exact.mean, exact.factor) if name == "full" else (exact.mean, exact.logvar, exact.factor)
    z = exact.rsample(IndexedRandom(0, torch.arange(4)))
    with torch.autocast("cpu", torch.bfloat16):
        same = type(exact)(*args)
        for a, b in (
            (same.kl, exact.kl),
            (same.log_prob(z), exact.log_prob(z)),
            (same.rsample(IndexedRandom(0, torch.arange(4))), z),
        ):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_evaluation_samples_do_not_depend_on_the_batch():
    for name in ("full", "low_rank"):
        posterior, features = POSTERIORS[name]((5,)), torch.randn(4, 8, 4, 4)
        whole = posterior(features, GlobalRandom()).rsample(IndexedRandom(0, torch.arange(4)))
        some = torch.tensor([3, 1])
        part = posterior(features[some], GlobalRandom()).rsample(IndexedRandom(0, some))
        torch.testing.assert_close(part, whole[some], rtol=1e-4, atol=1e-5)


def test_the_full_covariance_of_32_dimensions_has_its_528_parameters():
    posterior = FullCovariancePosterior(feature_shape=(1, 1, 1), latent_shape=(32,))
    outputs = posterior.heads.logvar[1].out_features + posterior.below.out_features
    assert outputs == 528


def test_an_untrained_full_covariance_is_diagonal():
    q = POSTERIORS["full"]((5,))(torch.randn(2, 8, 4, 4), GlobalRandom())
    assert torch.equal(q.factor, torch.diag_embed(q.factor.diagonal(dim1=1, dim2=2)))


def test_unsupported_posterior_settings_are_rejected():
    with pytest.raises(UserError, match="posterior=full_covariance: too large over a latent map of 3x4x4"):
        POSTERIORS["full"]((3, 4, 4))
    with pytest.raises(UserError, match=r"posterior.rank=2: expected less than the 2 latent values"):
        POSTERIORS["low_rank"]((2,))


def test_a_delta_posterior_passes_features_through_or_maps_them():
    features = torch.randn(2, 8, 4, 4)
    same = DeltaPosterior(feature_shape=(8, 4, 4), latent_shape=(8, 4, 4))
    assert torch.equal(same(features, GlobalRandom()).mode, features)
    assert not list(same.parameters())
    vector = DeltaPosterior(feature_shape=(8, 4, 4), latent_shape=(3,))
    assert vector(features, GlobalRandom()).mode.shape == (2, 3)
