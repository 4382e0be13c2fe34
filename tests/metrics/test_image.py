import numpy as np
import pytest
import torch

from saaae.metrics.image import ReconstructionQuality, psnr_per_image


def reference_ssim(x, y):
    """SSIM of one image in float64: 11-tap Gaussian window, sigma 1.5, reflected border (Wang et al. 2004, eq. 13)."""
    taps = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    taps /= taps.sum()

    def blur(image):
        padded = np.pad(image, 5, mode="reflect")
        rows = sum(t * padded[i : i + image.shape[0]] for i, t in enumerate(taps))
        return sum(t * rows[:, i : i + image.shape[1]] for i, t in enumerate(taps))

    mx, my = blur(x), blur(y)
    vx, vy, cov = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    return np.mean((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))


@pytest.fixture
def images():
    g = torch.Generator().manual_seed(0)
    x = torch.rand(7, 1, 28, 28, generator=g)
    return (x + 0.1 * torch.randn(7, 1, 28, 28, generator=g)).clamp(0, 1), x


def test_ssim_equals_an_independent_float64_reference(images):
    metric = ReconstructionQuality()
    metric.update(*images)
    expected = np.mean(
        [reference_ssim(a[0].double().numpy(), b[0].double().numpy()) for a, b in zip(*images, strict=True)]
    )
    assert abs(float(metric.compute()["ssim"]) - expected) < 1e-4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_metrics_are_computed_in_float32_under_autocast(images, dtype):
    plain, cast = ReconstructionQuality(), ReconstructionQuality()
    plain.update(*images)
    with torch.autocast("cpu", dtype):
        cast.update(*images)
    for name, value in plain.compute().items():
        torch.testing.assert_close(cast.compute()[name], value, rtol=0, atol=0)


def test_psnr_is_the_mean_over_images_not_that_of_the_pooled_error():
    x = torch.zeros(2, 1, 16, 16)
    y = torch.stack([torch.full((1, 16, 16), 0.1), torch.full((1, 16, 16), 0.01)])
    metric = ReconstructionQuality()
    metric.update(y, x)
    assert abs(float(metric.compute()["psnr"]) - 30.0) < 1e-3


def test_metrics_do_not_depend_on_batch_sizes(images):
    whole, parts = ReconstructionQuality(), ReconstructionQuality()
    whole.update(*images)
    for chunk in ([0], [1, 2, 3], [4, 5, 6]):
        parts.update(images[0][chunk], images[1][chunk])
    for name, value in whole.compute().items():
        torch.testing.assert_close(parts.compute()[name], value, rtol=1e-6, atol=1e-6)


def test_identical_images_have_a_finite_psnr():
    x = torch.rand(1, 1, 16, 16)
    assert float(psnr_per_image(x, x)) == 100.0
