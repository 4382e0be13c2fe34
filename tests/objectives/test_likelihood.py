import math

import pytest
import torch
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Normal

from saaae.objectives.likelihood import Bernoulli, Gaussian

RAW = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
TARGET = torch.rand(3, 2, 4, 4, generator=torch.Generator().manual_seed(1))


def test_bernoulli_nll_is_that_of_torch_distributions_on_binary_images():
    binary = TARGET.round()
    expected = -TorchBernoulli(logits=RAW).log_prob(binary).flatten(1).sum(1)
    torch.testing.assert_close(Bernoulli().nll(RAW, binary), expected)


@pytest.mark.parametrize("sigma", [0.1, 0.7071, 2.0])
def test_fixed_gaussian_nll_is_that_of_torch_distributions(sigma):
    likelihood = Gaussian(sigma=sigma)
    expected = -Normal(torch.sigmoid(RAW), sigma).log_prob(TARGET).flatten(1).sum(1)
    torch.testing.assert_close(likelihood.nll(RAW, TARGET), expected, rtol=1e-5, atol=1e-4)
    assert not list(likelihood.parameters())


def test_sigma_of_root_one_half_is_the_summed_squared_error_plus_a_constant():
    squared = ((torch.sigmoid(RAW) - TARGET) ** 2).flatten(1).sum(1)
    difference = Gaussian(sigma=math.sqrt(0.5)).nll(RAW, TARGET) - squared
    torch.testing.assert_close(difference, torch.full((3,), 32 * 0.5 * math.log(math.pi)))


def test_optimal_sigma_is_the_root_of_the_mean_squared_error_and_minimises_the_nll():
    optimal = Gaussian(sigma="optimal")
    rmse = float(((torch.sigmoid(RAW) - TARGET) ** 2).mean().sqrt())
    nll = optimal.nll(RAW, TARGET).mean()
    torch.testing.assert_close(nll, Gaussian(sigma=rmse).nll(RAW, TARGET).mean(), rtol=1e-4, atol=1e-3)
    for factor in (0.9, 1.1):
        assert Gaussian(sigma=rmse * factor).nll(RAW, TARGET).mean() > nll


def test_optimal_sigma_in_evaluation_does_not_depend_on_the_batch():
    likelihood = Gaussian(sigma="optimal")
    likelihood.nll(RAW, TARGET)
    likelihood.eval()
    whole = likelihood.nll(RAW, TARGET)
    torch.testing.assert_close(likelihood.nll(RAW[1:2], TARGET[1:2]), whole[1:2])
    assert abs(float(likelihood.log_sigma.exp()) - float(((torch.sigmoid(RAW) - TARGET) ** 2).mean().sqrt())) < 1e-3


def test_learned_sigma_starts_at_the_first_error_and_is_trained():
    likelihood = Gaussian(sigma="learned")
    likelihood.nll(RAW, TARGET)
    start = float(likelihood.log_sigma.exp())
    assert start == pytest.approx(float(((torch.sigmoid(RAW) - TARGET) ** 2).mean().sqrt()), rel=1e-3)
    likelihood.nll(RAW, 1 - TARGET).mean().backward()
    assert float(likelihood.log_sigma.exp()) == start
    assert likelihood.log_sigma.grad.abs() > 0
    resumed = Gaussian(sigma="learned")
    resumed.load_state_dict(likelihood.state_dict())
    resumed.nll(1 - RAW, TARGET)
    assert float(resumed.log_sigma.exp()) == start


@pytest.mark.parametrize("likelihood", [Bernoulli(), Gaussian(sigma="optimal"), Gaussian(sigma=0.5)])
def test_every_likelihood_gives_the_decoder_a_finite_gradient_also_in_half_precision(likelihood):
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        raw = (RAW * 50).to(dtype).requires_grad_()
        nll = likelihood.nll(raw, TARGET)
        assert nll.dtype == torch.float32
        nll.mean().backward()
        assert torch.isfinite(raw.grad).all()
        assert raw.grad.abs().max() > 0
