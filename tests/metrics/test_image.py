import numpy as np
import pytest
import torch

from saaae.metrics.image import psnr_per_image, reconstruction_quality, ssim_per_image
from saaae.metrics.per_image import summary
from tests.metrics import references_image


def noisy(count, size, seed=0):
    """Images and smoother ones, float32 in [0, 1]."""
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(count, 1, size, size, generator=g)
    return (x + 0.1 * torch.randn(x.shape, generator=g)).clamp(0, 1), x


@pytest.mark.parametrize("name", ["ssim", "psnr", "mse"])
@pytest.mark.parametrize("size", [28, 64])
def test_metrics_equal_independent_float64_references(name, size):
    x_hat, x = noisy(7, size)
    reference = getattr(references_image, name)
    expected = [reference(*pair) for pair in zip(x_hat[:, 0].double().numpy(), x[:, 0].double().numpy(), strict=True)]
    found = reconstruction_quality(x_hat, x)[name]
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-4)


def test_ms_ssim_equals_its_reference_and_is_omitted_for_small_images():
    x_hat, x = noisy(3, 192)
    expected = [
        references_image.ms_ssim(a.double().numpy()[0], b.double().numpy()[0]) for a, b in zip(x_hat, x, strict=True)
    ]
    found = reconstruction_quality(x_hat, x, multiscale=True)
    np.testing.assert_allclose(found["ms_ssim"].numpy(), expected, rtol=0, atol=1e-4)
    assert "ms_ssim" not in reconstruction_quality(*noisy(2, 175), multiscale=True)
    assert "ms_ssim" not in reconstruction_quality(x_hat, x)


def test_ms_ssim_of_opposite_images_is_zero_and_not_nan():
    x = torch.rand(1, 1, 192, 192, generator=torch.Generator().manual_seed(0))
    assert float(reconstruction_quality(1 - x, x, multiscale=True)["ms_ssim"]) == 0.0


def test_ssim_inside_the_border_equals_that_of_scikit_image():
    x = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    y = x.clone()
    y[..., 20:44, 20:44] = 1 - y[..., 20:44, 20:44]  # equal borders: only the number of averaged pixels differs
    cropped = references_image.cropped_ssim(y[0, 0].double().numpy(), x[0, 0].double().numpy())
    assert (1 - float(ssim_per_image(y, x))) * 64**2 == pytest.approx((1 - cropped) * 54**2, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_metrics_are_computed_in_float32_under_autocast(dtype):
    images = noisy(7, 28)
    plain = reconstruction_quality(*images)
    with torch.autocast("cpu", dtype):
        cast = reconstruction_quality(*images)
    for name, value in plain.items():
        torch.testing.assert_close(cast[name], value, rtol=0, atol=0)


def test_psnr_is_the_mean_over_images_not_that_of_the_pooled_error():
    x = torch.zeros(2, 1, 16, 16)
    y = torch.stack([torch.full((1, 16, 16), 0.1), torch.full((1, 16, 16), 0.01)])
    assert abs(float(reconstruction_quality(y, x)["psnr"].mean()) - 30.0) < 1e-3


def test_metrics_do_not_depend_on_the_other_images_of_a_batch():
    x_hat, x = noisy(7, 28)
    for name, value in reconstruction_quality(x_hat, x).items():
        alone = torch.cat([reconstruction_quality(x_hat[[i]], x[[i]])[name] for i in range(7)])
        torch.testing.assert_close(alone, value, rtol=1e-6, atol=1e-6)


def test_identical_images_have_a_finite_psnr():
    x = torch.rand(1, 1, 16, 16)
    assert float(psnr_per_image(x, x)) == 100.0


def test_the_summary_has_means_medians_and_fifth_percentiles():
    values = torch.rand(41, generator=torch.Generator().manual_seed(0)).double()
    enl = torch.tensor([1.0, 3.0, float("nan"), 1e6] * 10 + [float("nan")]).double()
    found = summary({"ssim": values, "mse": values, "enl": enl}, spread=True)
    assert set(found) == {"ssim", "ssim_median", "ssim_p05", "mse", "enl"}
    assert float(found["ssim"]) == pytest.approx(values.mean().item())
    assert float(found["ssim_median"]) == pytest.approx(np.median(values.numpy()))
    assert float(found["ssim_p05"]) == pytest.approx(np.percentile(values.numpy(), 5))
    assert float(found["enl"]) == 3.0  # median over the images with a window, robust to one constant image
    assert float(summary({"enl": torch.tensor([1.0, 2.0, 3.0, 10.0]).double()}, spread=False)["enl"]) == 2.5
    assert set(summary({"ssim": values}, spread=False)) == {"ssim"}
