import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from saaae.posteriors.gaussian import Delta, DiagonalGaussian, DiagonalPosterior, soft_bound
from saaae.ranges import LOGVAR_MAX, LOGVAR_MIN
from saaae.rng import GlobalRandom


def reference(mean, logvar):
    return Independent(Normal(mean, torch.exp(0.5 * logvar)), mean.dim() - 1)


@pytest.mark.parametrize("shape", [(5, 7), (5, 3, 2, 2)])
def test_kl_and_density_are_those_of_torch_distributions(shape):
    torch.manual_seed(0)
    mean, logvar, z = (torch.randn(shape, dtype=torch.float64) for _ in range(3))
    q, p = DiagonalGaussian(mean, logvar), reference(mean, logvar)
    prior = reference(torch.zeros_like(mean), torch.zeros_like(mean))
    torch.testing.assert_close(q.kl, kl_divergence(p, prior), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(q.log_prob(z), p.log_prob(z), rtol=1e-12, atol=1e-12)


def test_samples_have_the_mean_and_variance_used_in_the_kl():
    torch.manual_seed(0)
    mean, logvar = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.5, -3.0]])
    z = DiagonalGaussian(mean.expand(100_000, 2), logvar.expand(100_000, 2)).rsample(GlobalRandom())
    torch.testing.assert_close(z.mean(0), mean[0], atol=0.02, rtol=0)
    torch.testing.assert_close(z.var(0), logvar[0].exp(), rtol=0.03, atol=0)


@pytest.mark.parametrize("extreme", [1e4, -1e4, 0.0])
def test_log_variance_is_bounded_with_finite_gradients(extreme):
    x = torch.full((1, 3), extreme, requires_grad=True)
    q = DiagonalGaussian(torch.zeros(1, 3), soft_bound(x))
    assert LOGVAR_MIN <= float(q.logvar.min()) <= float(q.logvar.max()) <= LOGVAR_MAX
    q.kl.sum().backward()
    assert torch.isfinite(q.kl).all()
    assert torch.isfinite(x.grad).all()


def test_the_log_variance_bound_is_the_identity_in_the_middle():
    x = torch.linspace(-5, 1, 50)
    torch.testing.assert_close(soft_bound(x), x, atol=2e-3, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_heads_give_float32_statistics_in_half_precision(dtype):
    posterior = DiagonalPosterior(feature_shape=(4, 2, 2), latent_shape=(3,)).to(dtype)
    q = posterior(torch.randn(2, 4, 2, 2, dtype=dtype) * 100, GlobalRandom())
    assert q.mean.dtype == q.logvar.dtype == torch.float32
    assert torch.isfinite(q.kl).all()


def test_a_delta_posterior_has_no_kl_and_no_bound():
    q = Delta(torch.randn(4, 3))
    assert torch.equal(q.rsample(GlobalRandom()), q.mode)
    assert torch.equal(q.kl, torch.zeros(4))
    assert torch.isinf(q.kl_effective).all()
    assert not q.stochastic
    assert (q.log_prob(q.mode) == torch.inf).all()
    assert (q.log_prob(q.mode + 1) == -torch.inf).all()
