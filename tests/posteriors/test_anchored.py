"""The edge cases of the SAAAE sampling rule, and its controls."""

import math

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from saaae.errors import UserError
from saaae.posteriors.anchored import AnchoredPosterior
from saaae.posteriors.gaussian import Delta, DiagonalPosterior
from saaae.posteriors.importance import NORMALIZATIONS, is_flat, per_batch, per_image, per_image_quantile
from saaae.rng import GlobalRandom, IndexedRandom

FEATURES, VECTOR, MAP = (8, 4, 4), (6,), (3, 4, 4)
CONTROLS = ["shuffled_positions", "shuffled_batch", "random", "inverted", "unused", "uniform"]


def make(latent=MAP, **options):
    defaults = {
        "map": "attention", "kl": "effective", "score": "projection", "normalization": "per_image",
        "cap": 0.95, "gain": "fixed", "stop_gradient": False, "factor": None, "match": "rate",
    }  # fmt: skip
    torch.manual_seed(0)
    return AnchoredPosterior(feature_shape=FEATURES, latent_shape=latent, **{**defaults, **options})


def features(batch=5):
    return torch.randn(batch, *FEATURES, generator=torch.Generator().manual_seed(1))


def rng(batch=5):
    return IndexedRandom(0, torch.arange(batch))


@pytest.mark.parametrize("latent", [VECTOR, MAP])
@pytest.mark.parametrize("score", ["projection", "log_column_sum", "norm"])
@pytest.mark.parametrize("kl", ["effective", "nominal", "budget"])
def test_the_effective_kl_is_that_of_the_sampled_distribution(latent, score, kl):
    q = make(latent, score=score, kl=kl)(features(), rng())
    p = Independent(Normal(q.mean, torch.exp(0.5 * q.logvar)), len(latent))
    prior = Independent(Normal(torch.zeros_like(q.mean), 1.0), len(latent))
    torch.testing.assert_close(q.kl_effective, kl_divergence(p, prior), rtol=1e-5, atol=1e-4)
    eps = rng().normal(q.mean)
    torch.testing.assert_close(q.rsample(rng()), q.mean + p.base_dist.stddev * eps)


def test_the_injected_noise_is_the_std_times_one_minus_the_anchor():
    posterior = make()
    q = posterior(features(), rng())
    mean, logvar = posterior.heads(features())
    injected = q.rsample(rng()) - mean
    expected = torch.exp(0.5 * logvar) * (1 - q.anchor) * rng().normal(mean)
    torch.testing.assert_close(injected, expected, rtol=1e-4, atol=1e-5)
    assert q.anchor.shape == (5, 1, 4, 4)


def test_nominal_uses_the_kl_before_the_anchor_and_reports_the_omitted_nats():
    q = make(kl="nominal")(features(), rng())
    mean, logvar = make().heads(features())
    nominal = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).flatten(1).sum(1)
    torch.testing.assert_close(q.kl, nominal)
    d = q.diagnostics()
    torch.testing.assert_close(d["uncharged_nats"], q.kl_effective - nominal)
    # Closed form of the difference: sum of -ln(1-a) - std^2 (1 - (1-a)^2) / 2.
    keep = (1 - q.anchor).expand_as(mean)
    closed = (-keep.log() - 0.5 * logvar.exp() * (1 - keep**2)).flatten(1).sum(1)
    torch.testing.assert_close(d["uncharged_nats"], closed, rtol=1e-4, atol=1e-3)


def test_budget_redistributes_noise_at_a_constant_sum_of_log_factors():
    q = make(kl="budget")(features(), rng())
    torch.testing.assert_close(q.log_factor.flatten(1).sum(1), torch.zeros(5), atol=1e-4, rtol=0)
    assert q.log_factor.std() > 0.1
    torch.testing.assert_close(q.diagnostics()["uncharged_nats"], torch.zeros(5))


@pytest.mark.parametrize("latent", [VECTOR, MAP])
def test_map_none_is_the_plain_vae_bit_for_bit(latent):
    anchored = make(latent, map="none")
    torch.manual_seed(0)
    plain = DiagonalPosterior(feature_shape=FEATURES, latent_shape=latent)
    assert anchored.state_dict().keys() == plain.state_dict().keys()
    q, p = anchored(features(), rng()), plain(features(), rng())
    assert torch.equal(q.rsample(rng()), p.rsample(rng()))
    assert torch.equal(q.kl, p.kl)


def test_map_full_is_a_deterministic_code():
    posterior = make(map="full")
    q = posterior(features(), rng())
    assert isinstance(q, Delta)
    assert not posterior.stochastic
    assert torch.equal(q.rsample(rng()), q.mode)


def test_uniform_scales_all_noise_by_its_factor():
    q = make(map="uniform", factor=0.25)(features(), rng())
    torch.testing.assert_close(q.log_factor, torch.full_like(q.mean, math.log(0.25)))
    torch.testing.assert_close(q.diagnostics()["noise_power"], torch.full((5,), 0.0625))


def test_unused_computes_the_map_without_reducing_noise():
    posterior = make(map="unused")
    q, p = posterior(features(), rng()), make(map="none")(features(), rng())
    assert torch.equal(q.rsample(rng()), p.rsample(rng()))
    assert sum(x.numel() for x in posterior.parameters()) == sum(x.numel() for x in make().parameters())
    q.kl.sum().backward()
    assert all(parameter.grad is not None for parameter in posterior.importance.attention.parameters())


@pytest.mark.parametrize("latent", [VECTOR, MAP])
def test_shuffled_positions_permutes_each_map_independently(latent):
    real, shuffled = (
        make(latent, map=m)(features(), rng()).anchor.flatten(1) for m in ("attention", "shuffled_positions")
    )
    torch.testing.assert_close(real.sort(1).values, shuffled.sort(1).values)
    assert not torch.equal(real, shuffled)


def test_shuffled_batch_takes_the_map_of_another_image():
    real, shuffled = (make(map=m)(features(), rng()).anchor for m in ("attention", "shuffled_batch"))
    assert torch.equal(shuffled, real.roll(1, 0))


def test_random_is_one_fixed_map_for_all_images():
    posterior = make(map="random")
    q = posterior(features(), rng())
    assert torch.equal(q.anchor, q.anchor[:1].expand_as(q.anchor))
    assert "random_scores" in posterior.state_dict()


def test_inverted_suppresses_noise_where_the_map_is_low():
    real, inverted = (make(map=m)(features(), rng()).anchor for m in ("attention", "inverted"))
    torch.testing.assert_close(inverted, 0.95 - real)


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("latent", [VECTOR, MAP])
def test_every_control_gives_a_finite_loss_and_gradient(control, latent):
    posterior = make(latent, map=control, factor=0.3)
    q = posterior(features(), rng())
    (q.kl + q.rsample(rng()).flatten(1).sum(1)).sum().backward()
    assert torch.isfinite(q.kl).all()
    assert all(torch.isfinite(p.grad).all() for p in posterior.parameters() if p.grad is not None)


# Edge cases of the formula


@pytest.mark.parametrize("constant", [0.0, 1.0, -300.0, 1e-8])
def test_a_constant_map_gives_no_anchor_and_keeps_a_gradient(constant):
    raw = torch.full((2, 16), constant, requires_grad=True)
    a = per_image(raw)
    assert torch.equal(a, torch.zeros_like(a))
    (a * torch.arange(16.0)).sum().backward()
    assert torch.isfinite(raw.grad).all()
    assert raw.grad.abs().max() > 0
    assert is_flat(raw).tolist() == [1.0, 1.0]


def test_rounding_noise_in_a_constant_map_is_not_amplified():
    raw = 5.0 + 1e-6 * torch.randn(4, 49)
    assert per_image(raw).max() < 0.01


def test_one_latent_dimension_is_a_constant_map():
    q = make((1,))(features(1), rng(1))
    assert torch.equal(q.anchor, torch.zeros(1, 1))
    assert torch.isfinite(q.kl).all()
    assert q.flat.tolist() == [1.0]


@pytest.mark.parametrize("normalization", ["per_image", "per_image_quantile", "zscore_sigmoid"])
def test_the_latent_of_an_image_does_not_depend_on_the_batch(normalization):
    posterior, x = make(normalization=normalization), features()
    whole = posterior(x, rng()).log_factor
    order = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(posterior(x[order], rng()).log_factor, whole[order], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(posterior(x[2:3], rng(1)).log_factor, whole[2:3], atol=1e-4, rtol=1e-4)


def test_the_original_normalisation_over_the_batch_couples_its_images():
    raw = torch.stack([torch.linspace(0, 0.1, 8), torch.linspace(0, 10, 8)])
    assert per_batch(raw)[0].max() < 0.011
    assert per_image(raw)[0].max() > 0.97


@pytest.mark.parametrize("normalization", sorted(NORMALIZATIONS))
@pytest.mark.parametrize("score", ["projection", "log_column_sum", "norm"])
def test_the_anchor_never_exceeds_its_cap(normalization, score):
    raw = torch.randn(64, 33) * 100
    a = NORMALIZATIONS[normalization](raw)
    assert a.min() >= 0
    assert a.max() <= 1
    q = make(normalization=normalization, score=score)(1000 * features(), rng())
    assert q.anchor.max() <= 0.95
    assert q.log_factor.min() >= math.log(0.05) - 1e-5
    assert torch.isfinite(q.kl_effective).all()


def test_min_max_always_leaves_one_position_at_full_noise():
    q = make()(features(), rng())
    assert torch.equal(q.anchor.flatten(1).amin(1), torch.zeros(5))


def test_one_outlier_flattens_min_max_but_not_the_quantile_range():
    raw = torch.linspace(0, 1, 100).repeat(1, 1)
    raw[0, 50] = 1000.0
    assert per_image(raw)[0, :50].max() < 0.01
    assert per_image_quantile(raw)[0, :50].max() > 0.4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_map_is_computed_in_float32_under_autocast(dtype):
    posterior = make(score="log_column_sum")
    with torch.autocast("cpu", dtype):
        q = posterior(features(), rng())
    assert q.anchor.dtype == q.log_factor.dtype == torch.float32
    assert len(q.anchor.unique()) > 5 * 8
    torch.testing.assert_close(q.anchor, posterior(features(), rng()).anchor)


def test_the_gradient_reaches_more_than_the_extreme_entries():
    raw = torch.randn(1, 32, requires_grad=True)
    (per_image(raw) * torch.randn(1, 32)).sum().backward()
    assert (raw.grad.abs() > 1e-4).float().mean() > 0.9


def test_stop_gradient_does_not_train_the_map():
    posterior = make(stop_gradient=True)
    posterior(features(), rng()).kl.sum().backward()
    assert all(p.grad is None for p in posterior.importance.parameters())
    posterior = make()
    posterior(features(), rng()).kl.sum().backward()
    assert all(p.grad is not None for p in posterior.importance.parameters())


def test_the_map_has_the_shape_of_the_latent():
    for latent in (VECTOR, MAP):
        q = make(latent)(features(), GlobalRandom())
        assert q.log_factor.shape == q.mean.shape == (5, *latent)


def test_a_cap_beyond_the_log_variance_bound_is_refused():
    make(cap=0.96)
    with pytest.raises(UserError, match=r"posterior.cap=0.99: at most 0.9698"):
        make(cap=0.99)


def test_uniform_without_a_factor_is_refused():
    with pytest.raises(UserError, match="posterior.factor"):
        make(map="uniform")


def test_parameters_that_train_nothing_ask_for_no_gradient():
    """DDP ends with an error where a parameter gets no gradient."""
    for options in ({"stop_gradient": True}, {"map": "full"}):
        posterior = make(**options)
        q = posterior(features(), rng())
        (q.rsample(rng()).sum() + q.kl.sum()).backward()
        without = [name for name, p in posterior.named_parameters() if p.requires_grad and p.grad is None]
        assert without == []


def test_only_a_posterior_with_noise_has_a_kl_of_dimensions():
    assert make().factorized
    assert not make(map="full").factorized


@pytest.mark.parametrize("kl", ["effective", "nominal", "budget"])
@pytest.mark.parametrize("latent", [VECTOR, MAP])
def test_a_learned_gain_removes_no_noise_at_the_start_and_is_trained(latent, kl):
    posterior, plain = make(latent, gain="learned", kl=kl), make(latent, map="none")
    q, p = posterior(features(), rng()), plain(features(), rng())
    assert torch.equal(q.rsample(rng()), p.rsample(rng()))
    assert torch.equal(q.kl, p.kl)
    assert torch.equal(q.anchor, make(latent)(features(), rng()).anchor)
    q.rsample(rng()).square().sum().backward()
    assert posterior.gain.grad.abs() > 0
    assert float(q.diagnostics()["anchor_gain"].mean()) == 0


def test_the_gain_scales_the_anchor_and_stays_within_the_cap():
    posterior = make(gain="learned")
    for value in (-100.0, 0.5, 100.0):
        torch.nn.init.constant_(posterior.gain, value)
        q = posterior(features(), rng())
        torch.testing.assert_close(q.log_factor, torch.log1p(-math.tanh(value) * q.anchor).expand_as(q.mean))
        assert q.kl.isfinite().all()
    assert "gain" not in make().state_dict()


@pytest.mark.parametrize("control", ["none", "full", "uniform"])
def test_a_map_that_is_not_computed_has_no_gain(control):
    assert make(map=control, factor=0.3, gain="learned").gain is None
