"""The anchored prior and its controls: densities, KL, bound, gradients, shapes."""

import pytest
import torch
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from saaae.errors import UserError
from saaae.objectives.beta import FreeBitsBeta
from saaae.posteriors.anchored_prior import AnchoredPriorPosterior, PriorGaussian
from saaae.posteriors.gaussian import DiagonalGaussian, DiagonalPosterior
from saaae.posteriors.learned_prior import pooled, stretched
from saaae.posteriors.prior import standard_log_prob
from saaae.rng import GlobalRandom, IndexedRandom

FEATURES, VECTOR, MAP = (8, 8, 8), (6,), (3, 8, 8)
EVERY = [
    {},
    {"attention": True},
    {"couple_noise": True},
    {"decoder_sees_w": True},
    {"couple_noise": True, "decoder_sees_w": True},
    {"prior": "learned"},
    {"prior": "standard"},
    {"prior": "hyper_shuffled"},
]


def make(latent=MAP, scale=1.0, **options):
    defaults = {
        "prior": "hyper", "grid": 4, "w_channels": 2, "w_dim": 5, "hidden": 16,
        "attention": False, "couple_noise": False, "decoder_sees_w": False,
    }  # fmt: skip
    torch.manual_seed(0)
    posterior = AnchoredPriorPosterior(feature_shape=FEATURES, latent_shape=latent, **{**defaults, **options})
    with torch.no_grad():  # far from N(0, I), which the prior begins near
        for parameter in getattr(posterior.prior, "parameters", lambda: ())():
            parameter.add_(scale * 0.3 * torch.randn_like(parameter))
    return posterior


def features(batch=5):
    return torch.randn(batch, *FEATURES, generator=torch.Generator().manual_seed(1))


def rng(batch=5):
    return IndexedRandom(0, torch.arange(batch))


def normal(q):
    return Independent(Normal(q.mean, torch.exp(0.5 * q.logvar)), q.mean.dim() - 1)


@pytest.mark.parametrize("latent", [VECTOR, MAP])
def test_the_standard_prior_is_the_plain_vae_bit_for_bit(latent):
    own = make(latent, prior="standard")
    torch.manual_seed(0)
    plain = DiagonalPosterior(feature_shape=FEATURES, latent_shape=latent)
    assert own.state_dict().keys() == plain.state_dict().keys()
    q, p = own(features(), rng()), plain(features(), rng())
    assert torch.equal(q.rsample(rng()), p.rsample(rng()))
    assert torch.equal(q.kl, p.kl)
    like = torch.empty(5, *latent)
    assert torch.equal(own.prior.sample(like, rng()), rng().normal(like))
    assert torch.equal(q.prior_mean, torch.zeros(like.shape))


@pytest.mark.parametrize("latent", [VECTOR, MAP])
@pytest.mark.parametrize("couple", [False, True])
def test_the_kl_of_z_is_that_of_torch_distributions(latent, couple):
    q = make(latent, couple_noise=couple)(features(), rng())
    prior = q.hyper.given(q.w, latent[1:])
    of_z = kl_divergence(normal(q), normal(prior))
    torch.testing.assert_close(q.kl_per_dimension.sum(1), of_z, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(q.kl, of_z + q.q_w.kl, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(q.diagnostics()["kl_w"], q.q_w.kl)
    assert torch.equal(q.kl, q.kl_effective)
    assert q.kl.std() > 0


def test_the_learned_prior_gives_the_kl_of_torch_distributions():
    posterior = make(prior="learned")
    q = posterior(features(), rng())
    torch.testing.assert_close(q.kl, kl_divergence(normal(q), normal(q.prior)), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(q.kl_per_dimension.sum(1), q.kl)
    assert q.kl.std() > 0
    assert torch.equal(q.prior_mean[0], q.prior_mean[1])


@pytest.mark.parametrize("latent", [VECTOR, (2, 8, 8)])
@pytest.mark.parametrize("options", EVERY, ids=str)
def test_the_kl_is_the_mean_log_ratio_of_its_samples(latent, options):
    count = 20_000
    posterior, x = make(latent, **options).requires_grad_(False), features(1)
    torch.manual_seed(2)
    q = posterior(x.expand(count, -1, -1, -1), GlobalRandom())
    z, log_prior, log_posterior = q.draw(GlobalRandom())
    ratio = log_posterior - log_prior
    error = float((ratio.std() ** 2 + q.kl.std() ** 2) ** 0.5) / count**0.5
    assert float(ratio.mean()) == pytest.approx(float(q.kl.mean()), abs=4 * error + 1e-3)
    expected = posterior.prior.mean(torch.empty(1, *latent)).shape
    assert z.shape[1:] == q.mode.shape[1:] == q.prior_mean.shape[1:] == expected[1:] == posterior.decoder_shape


def test_samples_of_the_prior_have_the_moments_of_its_density():
    posterior = make(VECTOR, decoder_sees_w=True)
    torch.manual_seed(0)
    z = posterior.prior.sample(torch.empty(50_000, *VECTOR), GlobalRandom())
    given = posterior.prior.given(z[:, 6:], ())
    white = (z[:, :6] - given.mean) * torch.exp(-0.5 * given.logvar)
    for values in (white, z[:, 6:]):
        torch.testing.assert_close(values.mean(0), torch.zeros(values.shape[1]), atol=0.03, rtol=0)
        torch.testing.assert_close(values.var(0), torch.ones(values.shape[1]), atol=0.05, rtol=0)


@pytest.mark.parametrize("latent", [VECTOR, MAP])
@pytest.mark.parametrize("options", EVERY, ids=str)
def test_images_of_the_prior_do_not_depend_on_their_number(latent, options):
    posterior = make(latent, **options)
    few, many = (posterior.prior.sample(torch.empty(n, *latent), rng(n)) for n in (2, 5))
    torch.testing.assert_close(few, many[:2])
    assert not torch.allclose(many[0], many[1])


def test_the_anchored_prior_begins_near_the_standard_one():
    q = make(scale=0.0)(features(), rng())
    standard = DiagonalGaussian(q.mean, q.logvar)
    assert q.prior_mean.abs().max() < 0.5
    torch.testing.assert_close(q.kl_per_dimension.sum(1), standard.kl, rtol=0.2, atol=0)
    given = q.hyper.given(torch.zeros(1, *q.hyper.w_shape), (8, 8))
    assert given.logvar.abs().max() < 0.5


@pytest.mark.parametrize("latent", [VECTOR, MAP])
@pytest.mark.parametrize("options", EVERY, ids=str)
def test_the_loss_gives_every_parameter_a_finite_gradient(latent, options):
    posterior = make(latent, **options)
    q = posterior(features(), rng())
    (q.kl.sum() + (q.rsample(rng()) ** 3).sum()).backward()
    for name, parameter in posterior.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_the_gradient_of_the_kl_is_that_of_finite_differences():
    values = [torch.randn(2, 3, dtype=torch.float64, requires_grad=True) for _ in range(4)]
    assert torch.autograd.gradcheck(lambda m, v, pm, pv: PriorGaussian(m, v, DiagonalGaussian(pm, pv)).kl, values)


def test_only_the_hyperprior_has_a_kl_beside_that_of_the_dimensions():
    FreeBitsBeta(value=1.0, floor=0.1).check(make(prior="learned"))
    for prior in ("hyper", "hyper_shuffled"):
        with pytest.raises(UserError, match="beta=free_bits: needs a posterior whose KL is a sum over dimensions"):
            FreeBitsBeta(value=1.0, floor=0.1).check(make(prior=prior))


@pytest.mark.parametrize("prior", ["learned", "hyper_shuffled"])
@pytest.mark.parametrize("option", ["couple_noise", "decoder_sees_w"])
def test_settings_of_w_are_refused_without_a_w_of_the_image(option, prior):
    message = f"^posterior.{option}=true: posterior.prior={prior} has no w of the image; expected hyper$"
    with pytest.raises(UserError, match=message):
        make(prior=prior, **{option: True})


@pytest.mark.parametrize("latent", [VECTOR, MAP])
def test_the_shuffled_control_differs_only_in_whose_w_it_takes(latent):
    own, control = make(latent), make(latent, prior="hyper_shuffled")
    q, other = own(features(), rng()), control(features(), rng())
    assert torch.equal(other.mean, q.mean)
    assert torch.equal(other.rsample(rng()), q.rsample(rng()))
    torch.testing.assert_close(other.q_w.mean, q.q_w.mean.roll(1, 0))
    torch.testing.assert_close(other.prior_mean, q.prior_mean.roll(1, 0))
    assert not torch.allclose(other.kl, q.kl)
    alone = control(features()[:1], rng(1))
    torch.testing.assert_close(alone.kl, own(features()[:1], rng(1)).kl)


@pytest.mark.parametrize("prior", ["hyper", "learned"])
def test_latents_of_larger_images_have_a_prior(prior):
    posterior = make(prior=prior)
    q = posterior(torch.randn(2, 8, 12, 20), GlobalRandom())
    assert q.prior_mean.shape == q.mode.shape == (2, 3, 12, 20)
    assert q.kl.isfinite().all()
    assert posterior.prior.sample(torch.empty(2, 3, 12, 20), GlobalRandom()).shape == (2, 3, 12, 20)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", EVERY, ids=str)
def test_the_prior_is_computed_in_float32_under_autocast(dtype, options):
    posterior = make(**options)
    with torch.autocast("cpu", dtype):
        q = posterior(features(), rng())
        values = (q.kl, q.rsample(rng()), q.prior_mean, posterior.prior.sample(torch.empty(5, *MAP), rng()))
        like = torch.empty(5, MAP[0], 12, 12)
        other = (posterior.prior.mean(like), posterior.prior.sample(like, rng()))
    assert {value.dtype for value in values} == {torch.float32}
    assert {value.dtype for value in other} == {torch.float32}
    torch.testing.assert_close(other[0], posterior.prior.mean(like))
    torch.testing.assert_close(values[0], posterior(features(), rng()).kl, rtol=0.03, atol=0.3)


def test_what_a_cell_tells_has_no_noise_and_is_nothing_at_the_prior():
    posterior = make()
    one, other = (posterior(features(), IndexedRandom(seed, torch.arange(5))) for seed in (0, 1))
    assert torch.equal(one.kl_effective_per_dimension, other.kl_effective_per_dimension)
    assert not torch.equal(one.kl_per_dimension, other.kl_per_dimension)
    prior, there = one.hyper.given(one.q_w.mean, (8, 8)), posterior(features(), rng())
    there.mean, there.heads_logvar = prior.mean, prior.logvar
    torch.testing.assert_close(there.kl_effective_per_dimension, torch.zeros(5, 192), atol=1e-5, rtol=0)


def test_a_reconstruction_from_the_mean_computes_nothing_of_w():
    posterior = make()
    posterior.encoder.forward = posterior.prior.network.forward = lambda *_: 1 / 0
    assert posterior(features(), rng()).mode.shape == (5, *MAP)


def test_maps_are_resized_as_torch_does():
    x = torch.randn(2, 3, 9, 14)
    torch.testing.assert_close(pooled(x, 4, 3), nn.functional.adaptive_avg_pool2d(x, (4, 3)))
    torch.testing.assert_close(stretched(x, (20, 33)), nn.functional.interpolate(x, (20, 33), mode="bilinear"))


def test_the_marginal_of_a_linear_prior_is_known():
    """z = A w + b + s eps: the mean of p(z|w) over w is the normal density N(b, A A^T + s^2 I)."""
    posterior = make((2,), w_dim=1)
    posterior.prior.network = nn.Linear(1, 4)
    with torch.no_grad():
        posterior.prior.network.weight[2:] = 0
        (a, b), log_scale = (
            (posterior.prior.network.weight[:2], posterior.prior.network.bias[:2]),
            3 * torch.tanh(posterior.prior.network.bias[2:] / 3),
        )
        z = torch.randn(3, 2)
        exact = MultivariateNormal(b, a @ a.T + torch.diag(torch.exp(2 * log_scale))).log_prob(z)
        w = torch.randn(100_000, 1)
        given = posterior.prior.given(w, ())
        for each, expected in zip(z, exact, strict=True):
            found = given.log_prob(each.expand(len(w), 2)).logsumexp(0) - torch.log(torch.tensor(float(len(w))))
            assert float(found) == pytest.approx(float(expected), abs=0.05)
        assert standard_log_prob(w).shape == (len(w),)
