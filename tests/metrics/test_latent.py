import torch

from saaae.metrics.latent import LatentStatistics
from saaae.posteriors.anchored_prior import PriorGaussian
from saaae.posteriors.gaussian import Delta, DiagonalGaussian


def test_dimensions_that_depend_on_the_image_are_active():
    torch.manual_seed(0)
    statistics = LatentStatistics(4)
    mean = torch.randn(600, 4) * torch.tensor([1.0, 0.2, 0.05, 0.0])
    logvar = torch.tensor([-1.0, 0.0, 0.0, 0.5]).expand_as(mean)
    whole = DiagonalGaussian(mean, logvar)
    for start in range(0, 600, 70):
        statistics.update(DiagonalGaussian(mean[start : start + 70], logvar[start : start + 70]))
    found = statistics.compute()
    assert int(found["active_units"]) == 2
    torch.testing.assert_close(found["spread"], mean.var(0, unbiased=False), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(found["variance"], logvar[0].exp())
    torch.testing.assert_close(found["kl"], whole.kl_per_dimension.mean(0))
    torch.testing.assert_close(found["kl"].sum(), whole.kl.mean())


def test_every_value_of_a_latent_map_is_a_dimension():
    statistics = LatentStatistics(12)
    statistics.update(Delta(torch.randn(5, 3, 2, 2)))
    assert statistics.compute()["spread"].shape == (12,)
    statistics.reset()
    assert statistics.count == 0


def test_moments_are_relative_to_the_prior():
    torch.manual_seed(0)
    normal, shift, scale = torch.randn(400, 3), torch.tensor([2.0, 0.0, -5.0]), torch.tensor([0.05, 1.0, 9.0])
    logvar = torch.full_like(normal, -2.0)
    prior = DiagonalGaussian(shift.expand_as(normal), (2 * scale.log()).expand_as(normal))
    plain, scaled = LatentStatistics(3), LatentStatistics(3)
    plain.update(DiagonalGaussian(normal, logvar))
    scaled.update(PriorGaussian(shift + scale * normal, logvar + 2 * scale.log(), prior))
    for name, value in plain.compute().items():
        torch.testing.assert_close(scaled.compute()[name], value, rtol=1e-3, atol=1e-4)
