import math

import torch

from saaae.objectives.beta import ConstantBeta
from saaae.objectives.elbo import beta_elbo_loss, bits_per_dimension
from saaae.posteriors.gaussian import DiagonalGaussian


def test_the_loss_is_nll_plus_beta_times_kl_per_image():
    q = DiagonalGaussian(torch.ones(4, 3), torch.zeros(4, 3))  # 1.5 nats each
    loss = beta_elbo_loss(torch.tensor([1.0, 2.0, 3.0, 4.0]), q, ConstantBeta(value=0.5), step=0)
    assert float(loss.loss) == 2.5 + 0.5 * 1.5
    assert (float(loss.nll), float(loss.kl), loss.beta) == (2.5, 1.5, 0.5)


def test_both_terms_give_a_gradient():
    mean = torch.ones(2, 3, requires_grad=True)
    nll = torch.ones(2, requires_grad=True)
    beta_elbo_loss(nll, DiagonalGaussian(mean, torch.zeros(2, 3)), ConstantBeta(value=1.0), 0).loss.backward()
    assert (nll.grad == 0.5).all()
    assert (mean.grad == 0.5).all()


def test_bits_per_dimension_of_a_uniform_guess():
    # A fair coin per pixel costs one bit; the uniform density on [0, 1] costs 8 bits per 8-bit pixel.
    assert math.isclose(float(bits_per_dimension(torch.tensor(-100 * math.log(2)), 100, True)), 1.0, rel_tol=1e-6)
    assert float(bits_per_dimension(torch.tensor(0.0), 100, False)) == 8.0
