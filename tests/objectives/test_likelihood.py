import math

import pytest
import torch
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Gamma, Normal
from torch.distributions import Laplace as TorchLaplace

from saaae.objectives.likelihood import (
    ACTIVATIONS,
    Bernoulli,
    Gaussian,
    Laplace,
    SpeckleLikelihood,
    SpectralGaussian,
    SSIMGaussian,
)

RAW = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
TARGET = torch.rand(3, 2, 4, 4, generator=torch.Generator().manual_seed(1))


def test_bernoulli_nll_equals_torch_distributions_on_binary_images():
    binary = TARGET.round()
    expected = -TorchBernoulli(logits=RAW).log_prob(binary).flatten(1).sum(1)
    torch.testing.assert_close(Bernoulli(activation="sigmoid").nll(RAW, binary), expected)


@pytest.mark.parametrize("sigma", [0.1, 0.7071, 2.0])
def test_gaussian_nll_with_fixed_sigma_equals_torch_distributions(sigma):
    likelihood = Gaussian(sigma=sigma, activation="sigmoid")
    expected = -Normal(torch.sigmoid(RAW), sigma).log_prob(TARGET).flatten(1).sum(1)
    torch.testing.assert_close(likelihood.nll(RAW, TARGET), expected, rtol=1e-5, atol=1e-4)
    assert not list(likelihood.parameters())


def test_sigma_of_root_one_half_gives_the_summed_squared_error_plus_a_constant():
    squared = ((torch.sigmoid(RAW) - TARGET) ** 2).flatten(1).sum(1)
    difference = Gaussian(sigma=math.sqrt(0.5), activation="sigmoid").nll(RAW, TARGET) - squared
    torch.testing.assert_close(difference, torch.full((3,), 32 * 0.5 * math.log(math.pi)))


def test_optimal_sigma_is_the_root_of_the_mean_squared_error_and_minimises_the_nll():
    optimal = Gaussian(sigma="optimal", activation="sigmoid")
    rmse = float(((torch.sigmoid(RAW) - TARGET) ** 2).mean().sqrt())
    nll = optimal.nll(RAW, TARGET).mean()
    torch.testing.assert_close(
        nll, Gaussian(sigma=rmse, activation="sigmoid").nll(RAW, TARGET).mean(), rtol=1e-4, atol=1e-3
    )
    for factor in (0.9, 1.1):
        assert Gaussian(sigma=rmse * factor, activation="sigmoid").nll(RAW, TARGET).mean() > nll


def test_optimal_sigma_in_evaluation_does_not_depend_on_the_batch():
    likelihood = Gaussian(sigma="optimal", activation="sigmoid")
    likelihood.nll(RAW, TARGET)
    likelihood.eval()
    whole = likelihood.nll(RAW, TARGET)
    torch.testing.assert_close(likelihood.nll(RAW[1:2], TARGET[1:2]), whole[1:2])
    assert abs(float(likelihood.log_scale.exp()) - float(((torch.sigmoid(RAW) - TARGET) ** 2).mean().sqrt())) < 1e-3


def test_the_sigma_of_each_image_makes_the_nll_follow_the_mean_psnr():
    likelihood = Gaussian(sigma="per_image", activation="none").eval()
    squared = ((RAW - TARGET) ** 2).flatten(1).mean(1)
    nll = likelihood.nll(RAW, TARGET)
    assert torch.equal(likelihood.nll(RAW[1:2], TARGET[1:2]), nll[1:2])
    psnr = -10 * torch.log10(squared)
    nats_per_db = RAW[0].numel() / 2 * math.log(10) / 10
    torch.testing.assert_close(nll - nll[0], nats_per_db * (psnr[0] - psnr), rtol=1e-4, atol=1e-3)
    best = [Gaussian(sigma=float(s.sqrt()), activation="none").nll(RAW[i : i + 1], TARGET[i : i + 1])
            for i, s in enumerate(squared)]  # fmt: skip
    torch.testing.assert_close(nll, torch.cat(best), rtol=1e-4, atol=1e-3)


def test_learned_sigma_starts_at_the_first_error_and_is_trained():
    likelihood = Gaussian(sigma="learned", activation="sigmoid")
    likelihood.nll(RAW, TARGET)
    start = float(likelihood.log_scale.exp())
    assert start == pytest.approx(float(((torch.sigmoid(RAW) - TARGET) ** 2).mean().sqrt()), rel=1e-3)
    likelihood.nll(RAW, 1 - TARGET).mean().backward()
    assert float(likelihood.log_scale.exp()) == start
    assert likelihood.log_scale.grad.abs() > 0
    resumed = Gaussian(sigma="learned", activation="sigmoid")
    resumed.load_state_dict(likelihood.state_dict())
    resumed.nll(1 - RAW, TARGET)
    assert float(resumed.log_scale.exp()) == start


ALL = [
    Bernoulli(activation="sigmoid"),
    Gaussian(sigma="optimal", activation="sigmoid"),
    Gaussian(sigma=0.5, activation="tanh"),
    Gaussian(sigma=0.5, activation="none"),
    Laplace(scale="optimal", activation="sigmoid"),
    Laplace(scale="learned", activation="relu"),
    SpectralGaussian(sigma=0.5, activation="none", weight=1.0, logarithm=False),
    SpectralGaussian(sigma=0.5, activation="sigmoid", weight=1.0, logarithm=True),
    SpeckleLikelihood(looks=1, activation="sigmoid"),
    SpeckleLikelihood(looks=4, activation="log_intensity"),
    Gaussian(sigma="per_image", activation="log_intensity"),
    Laplace(scale="per_image", activation="none"),
    SSIMGaussian(sigma=0.5, activation="sigmoid", weight=1.0),
]


@pytest.mark.parametrize("likelihood", ALL, ids=lambda x: type(x).__name__)
def test_every_likelihood_gives_a_finite_decoder_gradient_even_in_half_precision(likelihood):
    raw_image = torch.randn(3, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    target = torch.rand(3, 1, 12, 12, generator=torch.Generator().manual_seed(1))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        raw = (raw_image * 50).to(dtype).requires_grad_()
        nll = likelihood.nll(raw, target)
        assert nll.shape == (3,)
        assert nll.dtype == torch.float32
        nll.mean().backward()
        assert torch.isfinite(raw.grad).all()
        assert raw.grad.abs().max() > 0
        assert 0 <= likelihood.mean(raw).min() <= likelihood.mean(raw).max() <= 1


@pytest.mark.parametrize("likelihood", ALL, ids=lambda x: type(x).__name__)
def test_the_target_itself_is_more_likely_than_another_image(likelihood):
    target = 0.2 + 0.6 * torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    inverse = {
        "sigmoid": torch.logit,
        "tanh": lambda x: torch.atanh(2 * x - 1),
        "log_intensity": lambda x: 2 * torch.log(x),
    }
    raw = next((f for name, f in inverse.items() if likelihood.activate is ACTIVATIONS[name]), lambda x: x)(target)
    assert (likelihood.nll(raw, target) < likelihood.nll(raw.roll(1, 0), target)).all()


def test_laplace_nll_with_fixed_scale_equals_torch_distributions():
    expected = -TorchLaplace(torch.sigmoid(RAW), 0.3).log_prob(TARGET).flatten(1).sum(1)
    torch.testing.assert_close(Laplace(scale=0.3, activation="sigmoid").nll(RAW, TARGET), expected)


def test_the_optimal_laplace_scale_is_the_mean_absolute_error_and_minimises_the_nll():
    best = Laplace(scale="optimal", activation="sigmoid").nll(RAW, TARGET).mean()
    error = float((torch.sigmoid(RAW) - TARGET).abs().mean())
    for factor in (0.9, 1.1):
        assert Laplace(scale=error * factor, activation="sigmoid").nll(RAW, TARGET).mean() > best


@pytest.mark.parametrize("looks", [1, 4, 2.5])
def test_the_speckle_nll_equals_that_of_a_gamma_intensity(looks):
    """Density of the amplitude y = sqrt(I): p(I) 2 y."""
    mean, y = torch.sigmoid(RAW).double(), TARGET.double().clamp_min(0.01)
    expected = -(Gamma(looks, looks / mean**2).log_prob(y**2) + torch.log(2 * y)).flatten(1).sum(1)
    likelihood = SpeckleLikelihood(looks=looks, activation="sigmoid", floor=1e-9)
    found = likelihood.nll(RAW, y.float())
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("looks", [1, 4])
def test_the_speckle_nll_is_minimal_at_the_true_amplitude_and_not_at_the_biased_log_mean(looks):
    torch.manual_seed(0)
    true = 0.4
    y = true * Gamma(torch.full((1, 1, 500, 500), float(looks)), float(looks)).sample().sqrt()
    likelihood = SpeckleLikelihood(looks=looks, activation="sigmoid")
    levels = torch.linspace(0.3, 0.5, 81)
    nll = torch.stack([likelihood.nll(torch.logit(level).expand_as(y), y)[0] for level in levels])
    assert float(levels[nll.argmin()]) == pytest.approx(true, abs=0.006)
    assert float(y.log().mean().exp()) < true - 0.02


def test_the_spectral_penalty_depends_on_magnitudes_and_not_on_phases():
    x = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    plain = Gaussian(sigma=0.5, activation="none")
    for logarithm in (False, True):
        spectral = SpectralGaussian(sigma=0.5, activation="none", weight=3.0, logarithm=logarithm)
        shifted = x.roll(5, 3)
        torch.testing.assert_close(spectral.nll(shifted, x), plain.nll(shifted, x), rtol=1e-5, atol=1e-3)
        blurred = (x + x.roll(1, 3)) / 2
        assert (spectral.nll(blurred, x) > plain.nll(blurred, x) + 1).all()


def test_the_spectral_penalty_has_the_scale_of_the_squared_error():
    """Parseval: with the orthonormal transform the energy of a difference is the same in both domains."""
    x, zero = torch.rand(1, 1, 32, 32), torch.zeros(1, 1, 32, 32)
    spectral = SpectralGaussian(sigma=math.sqrt(0.5), activation="none", weight=1.0, logarithm=False)
    penalty = spectral.nll(zero, x) - Gaussian(sigma=math.sqrt(0.5), activation="none").nll(zero, x)
    torch.testing.assert_close(penalty, (x**2).sum().view(1), rtol=1e-3, atol=1e-3)


def test_the_ssim_penalty_is_zero_for_equal_images_and_depends_on_structure():
    x = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    likelihood = SSIMGaussian(sigma=0.5, activation="none", weight=1.0)
    plain = Gaussian(sigma=0.5, activation="none")
    torch.testing.assert_close(likelihood.nll(x, x), plain.nll(x, x), rtol=1e-4, atol=1e-3)
    flat = x.mean((2, 3), keepdim=True).expand_as(x)
    assert (likelihood.nll(flat, x) - plain.nll(flat, x) > 0.8 * 256).all()


def test_tanh_outputs_are_rescaled_to_the_pixel_range():
    likelihood = Gaussian(sigma=0.5, activation="tanh")
    torch.testing.assert_close(likelihood.mean(RAW), (torch.tanh(RAW) + 1) / 2)
