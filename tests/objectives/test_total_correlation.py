import math

import pytest
import torch

from saaae.errors import UserError
from saaae.objectives.processes import gathered
from saaae.objectives.total_correlation import TotalCorrelationBeta, kl_parts
from saaae.posteriors.gaussian import DiagonalGaussian
from saaae.posteriors.prior import standard_log_prob
from saaae.rng import GlobalRandom
from tests.models.test_models import make  # noqa: F401

NOISE = 0.3
"""Variance of the posteriors."""


def gaussian_aggregate(correlation, count=2000, size=2):
    """Posteriors whose mixture is N(0, C): unit variances, the first two dimensions correlated."""
    torch.manual_seed(0)
    covariance = torch.eye(size) * (1 - NOISE)
    covariance[0, 1] = covariance[1, 0] = correlation
    white = torch.randn(count, size)
    white = white - white.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(white.T.cov(correction=0)), white.T, upper=False).T
    mean = white @ torch.linalg.cholesky(covariance).T
    return DiagonalGaussian(mean, torch.full_like(mean, math.log(NOISE)))


@pytest.mark.parametrize("correlation", [0.0, 0.4, 0.6])
def test_the_parts_of_a_gaussian_aggregate_are_those_of_the_closed_form(correlation):
    q = gaussian_aggregate(correlation)
    parts = kl_parts(q, q.rsample(GlobalRandom()))
    total = -0.5 * math.log(1 - correlation**2)
    assert float(parts.total_correlation) == pytest.approx(total, abs=0.03)
    # The entropy of the aggregate less that of the noise.
    assert float(parts.index_code_mi) == pytest.approx(-math.log(NOISE) - total, abs=0.06)
    assert float(parts.dimension_kl) == pytest.approx(0.0, abs=0.03)


def test_the_parts_add_up_to_the_kl_of_the_same_sample():
    torch.manual_seed(1)
    q = DiagonalGaussian(2 * torch.randn(16, 3, 2, 2), torch.randn(16, 3, 2, 2))
    z = q.rsample(GlobalRandom())
    torch.testing.assert_close(sum(kl_parts(q, z)), (q.log_prob(z) - standard_log_prob(z)).mean())


def test_distant_latents_tell_which_image_they_are_of():
    mean = torch.arange(8.0)[:, None] * 100
    q = DiagonalGaussian(mean, torch.zeros_like(mean))
    parts = kl_parts(q, q.mean)
    assert float(parts.index_code_mi) == pytest.approx(math.log(8))
    assert float(parts.total_correlation) == pytest.approx(0.0, abs=1e-4)  # one dimension


def test_beta_weights_the_total_correlation_alone():
    q = gaussian_aggregate(0.6, count=64)
    penalties, estimates = [], []
    for value in (1.0, 4.0):
        schedule = TotalCorrelationBeta(value=value, warmup=0)
        schedule.bind(10)
        assert schedule.diagnostics() == {}
        torch.manual_seed(3)
        penalties.append(schedule.penalty(q, 0))
        estimates.append(schedule.diagnostics()["total_correlation"])
    assert penalties[0] == q.kl.mean()
    torch.testing.assert_close(penalties[1] - penalties[0], 3 * estimates[0])
    assert estimates[0] == estimates[1] > 0.1


def test_training_reduces_the_total_correlation_and_not_the_information():
    """Rotating the means changes the total correlation only: descent must undo their correlation."""
    base = gaussian_aggregate(0.6, count=500)
    angle = torch.tensor(0.0, requires_grad=True)
    schedule = TotalCorrelationBeta(value=10.0, warmup=0)
    schedule.bind(10)
    optimizer = torch.optim.Adam([angle], lr=0.1)
    for step in range(60):
        cos, sin = angle.cos(), angle.sin()
        rotation = torch.stack([torch.stack([cos, -sin]), torch.stack([sin, cos])])
        penalty = schedule.penalty(DiagonalGaussian(base.mean @ rotation, base.logvar), step)
        optimizer.zero_grad()
        penalty.backward()
        optimizer.step()
    assert float(angle.detach()) % (math.pi / 2) == pytest.approx(math.pi / 4, abs=0.15)
    assert float(schedule.diagnostics()["total_correlation"]) < 0.08


@pytest.mark.parametrize(
    "options",
    [
        ["model=vae", "posterior=low_rank"],
        ["model=vae", "posterior=delta"],
        ["model=saaae", "posterior.kl=nominal"],
        ["model=saaae_prior", "posterior.prior=learned"],
        ["model=saaae_prior", "posterior.prior=hyper"],
    ],
)
def test_other_posteriors_are_refused(make, options):  # noqa: F811
    with pytest.raises(UserError, match="beta=total_correlation: needs a Gaussian posterior with independent"):
        make("beta=total_correlation", *options)


@pytest.mark.parametrize("options", [["model=saaae"], ["model=saaae_prior", "posterior.prior=standard"]])
def test_posteriors_over_the_standard_prior_are_accepted(make, options):  # noqa: F811
    model, data = make("beta=total_correlation", *options)
    model.beta.bind(10)
    loss, _ = model.loss(data.batch("train", torch.arange(4)), 0)
    loss.loss.backward()
    assert all(value.isfinite() for value in (loss.loss, *model.beta.diagnostics().values()))
    assert len(model.beta.diagnostics()) == 3


def test_two_processes_together_have_the_penalty_and_gradient_of_one(monkeypatch):
    whole, noise = gaussian_aggregate(0.6, count=8), torch.randn(8, 2)

    def penalty(mean, own):
        q = DiagonalGaussian(mean[own], whole.logvar[own])
        return kl_parts(q, q.mean + noise[own] * (0.5 * q.logvar).exp()).total_correlation

    mean = whole.mean.clone().requires_grad_()
    alone = penalty(mean, slice(0, 8))
    alone.backward()
    shared = whole.mean.clone().requires_grad_()
    everything = {"mean": shared, "logvar": whole.logvar}
    # Here both shares are in one process, where autograd sums the gradients itself.
    monkeypatch.setattr(
        "saaae.objectives.total_correlation.gathered",
        lambda share: everything["mean" if share.requires_grad else "logvar"],
    )
    parts = torch.stack([penalty(shared, slice(0, 4)), penalty(shared, slice(4, 8))])
    torch.testing.assert_close(parts.mean(), alone)
    parts.mean().backward()
    torch.testing.assert_close(shared.grad, mean.grad)


def test_rows_of_other_processes_arrive_and_send_their_gradients_back(monkeypatch):
    other, sent = torch.full((2, 3), 5.0), torch.arange(12.0).view(4, 3)

    def all_gather(shares, own):
        shares[0].copy_(other)
        shares[1].copy_(own)

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "all_gather", all_gather)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda gradient: gradient.add_(sent))
    share = torch.ones(2, 3, requires_grad=True)
    rows = gathered(share)
    assert torch.equal(rows, torch.cat([other, share.detach()]))
    (2 * rows).sum().backward()
    assert torch.equal(share.grad, 2 + sent[2:])
