import math

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d

from saaae.metrics.speckle import homogeneous_windows, speckle_quality
from tests.metrics import references_speckle as references

WITHOUT_CLEAN = [
    "moi",
    "ratio_mean",
    "ratio_variance",
    "enl",
    "enl_observed",
    "epd_roa_horizontal",
    "epd_roa_vertical",
]


def speckled(clean, looks, seed=0):
    """White Gamma speckle on amplitudes."""
    rng = np.random.default_rng(seed)
    return (clean * torch.from_numpy(rng.gamma(looks, 1 / looks, clean.shape)).sqrt()).float()


def scenes(height, width, count=5, seed=0):
    """Piecewise constant amplitudes with a black corner that contains one window completely and another partly."""
    rng = np.random.default_rng(seed)
    blocks = torch.from_numpy(rng.uniform(0.03, 0.4, (count, 1, 3, 4))).float()
    clean = torch.nn.functional.interpolate(blocks, size=(height, width))
    clean[:, :, : height // 3, : width // 3] = 0.0
    return clean


def smoothed(observed):
    """A box filter that leaves some pixels at zero, to test the lower bounds of divisors."""
    x_hat = avg_pool2d(observed, 5, 1, 2, count_include_pad=False)
    x_hat[:, :, -3:, ::7] = 0.0
    return x_hat


def doubles(*images):
    return [image.double().numpy() for image in images]


def assert_equals_the_reference(found, expected):
    assert sorted(found) == sorted(expected)
    for name, value in found.items():
        assert value.dtype == torch.float32
        np.testing.assert_allclose(value.numpy(), expected[name], rtol=1e-6, atol=0, err_msg=name)


@pytest.fixture
def images():
    clean = scenes(64, 64)
    observed = speckled(clean, 1)
    return smoothed(observed), observed, clean


@pytest.mark.parametrize("looks", [1, 4])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (40, 56), (30, 90)])
def test_every_metric_equals_an_independent_float64_reference(height, width, looks):
    clean = scenes(height, width)
    observed = speckled(clean, looks)
    x_hat = smoothed(observed)
    found = speckle_quality(x_hat, observed, clean)
    assert_equals_the_reference(found, references.speckle_quality(*doubles(x_hat, observed, clean)))


def test_every_metric_except_epi_needs_no_clean_image(images):
    x_hat, observed, _ = images
    found = speckle_quality(x_hat, observed)
    assert list(found) == WITHOUT_CLEAN
    assert_equals_the_reference(found, references.speckle_quality(*doubles(x_hat, observed)))


def test_enl_of_nearly_constant_pixels_is_accurate():
    x_hat = 0.9 + 5e-4 * torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    windows = [(0, 0, 32, 32)] * 3
    found = speckle_quality(x_hat, x_hat, windows=torch.tensor(windows))
    assert found["enl"].min() > 5e5
    assert_equals_the_reference(found, references.speckle_quality(*doubles(x_hat, x_hat), windows=windows))


@pytest.mark.parametrize("looks", [1, 2, 4, 10])
def test_a_perfect_despeckler_has_a_ratio_image_with_mean_1_and_variance_1_over_looks(looks):
    clean = 4.0 * scenes(96, 96, 8).clamp_min(0.03)
    found = speckle_quality(clean, speckled(clean, looks), clean)
    pixels = clean.numel()
    mean_error = math.sqrt(1 / looks / pixels)
    variance_error = math.sqrt((2 + 6 / looks) / looks**2 / pixels)  # fourth moment of Gamma(L, 1/L)
    assert abs(found["ratio_mean"].mean() - 1) < 4 * mean_error
    assert abs(found["ratio_variance"].mean() - 1 / looks) < 4 * variance_error
    assert abs(found["epi"] - 1).max() < 1e-6


@pytest.mark.parametrize("looks", [1, 2, 4, 10])
def test_the_observed_enl_of_a_constant_scene_is_the_number_of_looks(looks):
    clean = torch.full((200, 1, 64, 64), 0.2)
    found = speckle_quality(clean, speckled(clean, looks), clean)
    assert abs(found["enl_observed"].mean() / looks - 1) < 0.03
    assert abs(found["moi"] - 1).max() < 5 / 64


def test_selecting_windows_in_the_noisy_image_overestimates_the_observed_enl():
    clean = torch.full((50, 1, 64, 64), 0.2)
    observed = speckled(clean, 4)
    flattered = speckle_quality(clean, observed)["enl_observed"]
    assert flattered.mean() > 1.15 * speckle_quality(clean, observed, clean)["enl_observed"].mean()


def test_removing_all_speckle_lowers_the_edge_preservation_degree_to_its_closed_form():
    looks, clean = 4, torch.full((20, 1, 64, 64), 0.2)
    found = speckle_quality(clean, speckled(clean, looks))
    expected = math.gamma(looks) ** 2 / (math.gamma(looks + 0.5) * math.gamma(looks - 0.5))
    for direction in ("horizontal", "vertical"):
        assert abs(found[f"epd_roa_{direction}"].mean() - expected) < 0.003


def test_the_edge_preservation_degree_distinguishes_directions():
    stripes = torch.tensor([0.2, 0.4]).repeat(16)[None, None, None, :].expand(1, 1, 32, 32)
    found = speckle_quality(torch.full_like(stripes, 0.3), stripes)
    assert abs(found["epd_roa_horizontal"] - 31 / (16 * 0.5 + 15 * 2.0)) < 1e-6
    assert abs(found["epd_roa_vertical"] - 1) < 1e-6


@pytest.mark.parametrize(("level", "enl"), [(0.0, 0.0), (0.003, 1e6), (0.37, 1e6), (1.0, 1e6)])
def test_constant_images_have_finite_metrics(level, enl):
    flat = torch.full((2, 1, 32, 32), level)
    found = speckle_quality(flat, flat, flat)
    for name, value in found.items():
        assert torch.isfinite(value).all(), name
    assert found["epi"].tolist() == [0.0, 0.0]
    torch.testing.assert_close(found["moi"], torch.ones(2))
    torch.testing.assert_close(found["enl"], torch.full((2,), enl))


def test_rounding_noise_in_a_constant_image_is_not_an_edge(images):
    clean = images[2]
    one_digit = 0.5 + 2.0**-24 * (clean > 0.2)
    assert one_digit.unique().numel() == 2
    assert abs(speckle_quality(one_digit, clean, clean)["epi"]).max() < 0.1


def test_epi_ignores_global_contrast_and_curvature(images):
    x_hat, observed, clean = images
    bowl = 0.3 * torch.linspace(-1, 1, 64) ** 2
    found, expected = (speckle_quality(x, observed, clean)["epi"] for x in (0.01 * x_hat + bowl, x_hat))
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=0)


@pytest.mark.parametrize("size", [4, 7, 16])
@pytest.mark.parametrize("looks", [None, 1])
def test_the_window_equals_that_of_an_exhaustive_search(size, looks):
    guide = scenes(50, 71)
    guide = guide + 0.02 * torch.rand(guide.shape, generator=torch.Generator().manual_seed(0)) * (guide > 0)
    guide = guide if looks is None else speckled(guide, looks)
    found = homogeneous_windows(guide, size)
    assert found.dtype == torch.int64
    assert found.tolist() == [list(references.homogeneous_window(image[0], size)) for image in doubles(guide)[0]]
    assert len(set(map(tuple, found.tolist()))) > 1


def test_a_shadow_is_selected_only_if_there_is_no_other_window():
    speckle = 1 + 0.1 * torch.rand(16, 16, generator=torch.Generator().manual_seed(0))
    guide = torch.full((2, 1, 32, 32), 1.7 / 255)
    guide[0, :, 16:, 16:] = 0.5 * speckle
    guide[1, :, :16, :16] *= speckle
    assert homogeneous_windows(guide, 16).tolist() == [[16, 16, 16, 16], [0, 16, 16, 16]]


def test_the_window_does_not_depend_on_the_evaluated_image(images):
    x_hat, observed, clean = images
    for guide in (None, clean):
        found, other = (speckle_quality(x, observed, guide)["enl_observed"] for x in (x_hat, x_hat.flip(3)))
        assert found.tolist() == other.tolist()


def test_enl_uses_the_given_rectangles_and_is_nan_without_one(images):
    x_hat, observed, clean = images
    windows = [(30, 5, 20, 9), (0, 0, 64, 64), (7, 3, 0, 10), (63, 40, 1, 24), (0, 0, 10, 10)]
    found = speckle_quality(x_hat, observed, clean, torch.tensor(windows))
    expected = references.speckle_quality(*doubles(x_hat, observed, clean), windows=windows)
    assert_equals_the_reference(found, expected)
    for name, value in found.items():
        assert value.isnan().tolist() == [name in ("enl", "enl_observed") and i == 2 for i in range(5)], name


def test_windows_must_lie_inside_the_image(images):
    x_hat, observed, _ = images
    over, inside = (torch.tensor([window]).expand(5, 4) for window in ([40, 50, 99, 99], [40, 50, 24, 14]))
    found, expected = (speckle_quality(x_hat, observed, windows=windows)["enl"] for windows in (over, inside))
    assert found.tolist() == expected.tolist()


def test_the_metrics_of_an_image_do_not_depend_on_the_batch(images):
    whole = speckle_quality(*images)
    for chunk in ([0], [3, 1], [4, 2, 0]):
        for name, value in speckle_quality(*(image[chunk] for image in images)).items():
            torch.testing.assert_close(value, whole[name][chunk], rtol=1e-6, atol=0, msg=name)


def test_bfloat16_images_are_cast_to_float32(images):
    coarse = [image.bfloat16() for image in images]
    with torch.autocast("cpu", torch.bfloat16):
        found = speckle_quality(*coarse)
    for name, value in speckle_quality(*(image.float() for image in coarse)).items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0, msg=name)
