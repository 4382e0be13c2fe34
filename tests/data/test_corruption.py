import math

import pytest
import torch
import yaml
from hydra.utils import instantiate

from saaae.data.corruption import (
    Composition,
    DownUp,
    GaussianBlur,
    GaussianNoise,
    Occlusion,
    PoissonNoise,
    SaltAndPepper,
    Speckle,
)
from saaae.errors import UserError
from saaae.rng import GlobalRandom, IndexedRandom
from tests.conftest import CONF, TINY

NAMES = sorted(path.stem for path in (CONF / "corruption").glob("*.yaml"))
INDICES = torch.arange(8)
GRAY = torch.full((8, 1, 32, 32), 0.5)


def rng(indices=INDICES):
    return IndexedRandom(0, indices)


def make(name):
    return instantiate(yaml.safe_load((CONF / "corruption" / f"{name}.yaml").read_text()))


@pytest.fixture
def images():
    return torch.rand(8, 1, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NAMES)
def test_every_corruption_keeps_shape_and_range_and_does_not_modify_its_input(images, name):
    before = images.clone()
    x = make(name)(images, rng())
    assert x.shape == images.shape
    assert x.dtype == torch.float32
    assert 0 <= x.min() <= x.max() <= 1
    assert torch.equal(images, before)
    assert torch.equal(x, images) == (name == "none")


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_corruption_of_an_image_does_not_depend_on_its_batch(images, name):
    whole = make(name)(images, rng())
    some = torch.tensor([5, 2])
    torch.testing.assert_close(make(name)(images[some], rng(some)), whole[some], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"none", "blur", "gaussian_blur", "jpeg"}))
def test_training_corruption_follows_the_random_state_of_the_run_and_differs_between_draws(images, name):
    torch.manual_seed(0)
    first, second = (make(name)(images, GlobalRandom()) for _ in range(2))
    torch.manual_seed(0)
    assert torch.equal(make(name)(images, GlobalRandom()), first)
    assert not torch.equal(first, second)


def test_down_up_upsamples_the_block_means(images):
    small = images.unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2))
    expected = torch.nn.functional.interpolate(small, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(DownUp(factor=2)(images, rng()), expected)


def test_a_gaussian_blur_keeps_the_mean_of_a_point_and_has_its_width():
    x = torch.zeros(1, 1, 31, 31)
    x[0, 0, 15, 15] = 1
    y = GaussianBlur(sigma=2.0)(x, rng(INDICES[:1]))[0, 0].double()
    offsets = torch.arange(31) - 15.0
    assert abs(y.sum() - 1) < 1e-5
    assert abs((y.sum(0) * offsets**2).sum() - 4) < 0.1


def test_gaussian_noise_has_its_standard_deviation():
    x = GaussianNoise(std=0.1)(GRAY, rng())
    assert abs((x - 0.5).std() - 0.1) < 0.003
    assert abs(x.mean() - 0.5) < 0.005


@pytest.mark.parametrize("peak", [2.0, 30.0, 200.0])
def test_photon_noise_has_the_mean_and_variance_of_a_poisson_law(peak):
    dark = torch.full((8, 1, 64, 64), 0.25)
    counts = PoissonNoise(peak=peak).corrupt(dark, rng()).double() * peak
    assert torch.allclose(counts, counts.round(), atol=1e-4)
    assert abs(counts.mean() / (0.25 * peak) - 1) < 0.02
    assert abs(counts.var() / (0.25 * peak) - 1) < 0.05


def test_salt_and_pepper_changes_the_given_fraction_of_pixels():
    x = SaltAndPepper(amount=0.2)(GRAY, rng())
    assert abs((x == 0).float().mean() - 0.1) < 0.01
    assert abs((x == 1).float().mean() - 0.1) < 0.01


def test_an_occlusion_is_one_square_at_a_random_position():
    x = Occlusion(size=0.25)(GRAY, rng())
    assert ((x == 0).sum((1, 2, 3)) == 64).all()
    rows = [tuple(image[0].amin(1).eq(0).nonzero().flatten().tolist()) for image in x]
    assert len(set(rows)) > 3


def test_a_composition_applies_each_part_with_its_probability():
    both = Composition(parts={"a": GaussianNoise(std=0.1), "b": Occlusion(size=0.2)}, probability=0.5)
    many = torch.full((400, 1, 16, 16), 0.5)
    x = both(many, rng(torch.arange(400)))
    occluded = (x == 0).flatten(1).sum(1) > 5
    noisy = x.flatten(1).std(1) > 0
    tolerance = 4 * math.sqrt(0.25 / 400)
    assert abs(occluded.float().mean() - 0.5) < tolerance
    assert abs(noisy.float().mean() - 0.75) < tolerance


class Watched(GaussianNoise):
    """Remembers the images that it was computed for."""

    def corrupt(self, x, rng):
        self.seen = x
        return super().corrupt(x, rng)


@pytest.mark.parametrize("source", [rng, lambda: GlobalRandom()])
def test_a_composition_computes_a_part_for_the_images_that_get_it_only(images, source):
    part = Watched(std=0.1)
    torch.manual_seed(0)
    changed = (Composition(parts={"a": part}, probability=0.5)(images, source()) != images).flatten(1).any(1)
    assert 0 < changed.sum() < 8
    assert torch.equal(part.seen, images[changed])


def test_a_composition_that_leaves_out_a_part_draws_as_if_it_did_not(images):
    parts = {"never": Watched(std=0.1), "always": GaussianNoise(std=0.1)}
    composition = Composition(parts=parts, probability=0.3)
    whole = composition(images, rng())
    alone = torch.cat([composition(images[i : i + 1], rng(INDICES[i : i + 1])) for i in range(8)])
    assert torch.equal(alone, whole)
    every = torch.where(
        (uniform := rng()).uniform(images[:, :1, :1, :1]) <= 0.3, parts["never"](images, uniform), images
    )
    every = torch.where(uniform.uniform(images[:, :1, :1, :1]) <= 0.3, parts["always"](every, uniform), every)
    torch.testing.assert_close(whole, every)


def test_correlated_speckle_needs_a_multiple_of_half_a_look():
    with pytest.raises(UserError, match=r"corruption.looks=2.3.*needs multiples of 0.5"):
        Speckle(looks=2.3, correlation=0.3)


def test_the_target_stays_clean(compose_config):
    from saaae.runs.run import resolve_config
    from saaae.training.build import build

    _, data = build(resolve_config(compose_config(*TINY, "corruption=gaussian", "data.target=clean")))
    batch = data.batch("val", torch.arange(4))
    assert batch.target is batch.clean
    assert not torch.equal(batch.input, batch.target)


def test_a_factor_that_does_not_divide_the_side_shifts_nothing():
    ramp = torch.linspace(0, 1, 28).expand(1, 1, 28, 28)
    inner = (DownUp(factor=3)(ramp, rng(INDICES[:1])) - ramp)[..., 4:-4]
    assert abs(float(inner.mean())) < 1e-3


def test_a_blur_wider_than_the_image_is_cut_off():
    x = GaussianBlur(sigma=20.0)(torch.rand(1, 1, 28, 28), rng(INDICES[:1]))
    assert x.isfinite().all()


def test_salt_and_pepper_fall_on_all_channels_of_a_pixel():
    x = SaltAndPepper(amount=0.5)(torch.full((2, 3, 32, 32), 0.5), rng(INDICES[:2]))
    assert torch.equal(x[:, 0], x[:, 1])
    assert torch.equal(x[:, 0], x[:, 2])


def test_the_brightest_poisson_pixels_are_not_white():
    x = PoissonNoise(peak=500.0)(torch.full((1, 1, 64, 64), 0.9), rng(INDICES[:1]))
    assert abs(float(x.mean()) - 0.9) < 1e-3
