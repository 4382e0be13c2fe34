import itertools
import math

import pytest
import torch

from saaae.data.scenes import FAMILIES, generate_scenes
from saaae.data.speckle import SpeckleData
from saaae.data.speckle_model import correlated_speckle, gamma_speckle, speckle_amplitude
from saaae.errors import UserError
from saaae.rng import GlobalRandom, IndexedRandom
from tests.conftest import SERVING

ONES = torch.ones(64, 1, 64, 64)
SOURCES = {"training": GlobalRandom(), "evaluation": IndexedRandom(0, torch.arange(64))}


@pytest.mark.parametrize("source", sorted(SOURCES))
@pytest.mark.parametrize(
    ("looks", "correlation"),
    [*itertools.product([1, 2, 4, 10], [0.0, 0.33, 0.6]), *itertools.product([2.5, 0.5], [0.0, 0.33, 0.6])],
)
def test_speckle_follows_the_gamma_law(looks, source, correlation):
    torch.manual_seed(0)
    s = (speckle_amplitude(ONES, looks, correlation, SOURCES[source]) ** 2).double()
    few = 4 if correlation else 1  # correlated pixels are fewer independent samples
    assert abs(s.mean() - 1) < 0.01 * few
    assert abs(s.std() - looks**-0.5) < 0.012 * few
    # Log intensity (Fisher-Tippett): bias psi(L) - ln L, variance psi1(L).
    shape = torch.tensor(float(looks), dtype=torch.float64)
    assert abs(s.log().mean() - (torch.digamma(shape) - math.log(looks))) < 0.015 * few
    assert abs(s.log().std() - torch.polygamma(1, shape).sqrt()) < 0.015 * few
    # Amplitude (Nakagami): mean factor .886 at L = 1.
    factor = math.exp(math.lgamma(looks + 0.5) - math.lgamma(looks)) / looks**0.5
    assert abs(s.sqrt().mean() - factor) < 0.005 * few


def test_speckle_multiplies_intensity_not_amplitude():
    torch.manual_seed(0)
    noisy = speckle_amplitude(0.5 * ONES, 4, 0.0, GlobalRandom())
    assert abs((noisy**2).mean() - 0.25) < 0.003


def test_speckle_is_white():
    s = gamma_speckle(ONES, 1, IndexedRandom(0, torch.arange(64))) - 1
    for shifted in (s.roll(1, 2), s.roll(1, 3), s.roll(1, 0)):
        assert abs((s * shifted).mean()) < 0.01


@pytest.mark.parametrize("correlation", [0.2, 0.33, 0.6])
@pytest.mark.parametrize("looks", [1, 4, 2.5])
def test_neighbours_of_correlated_speckle_have_the_requested_correlation(looks, correlation):
    s = correlated_speckle(torch.ones(64, 1, 48, 64), looks, correlation, IndexedRandom(0, torch.arange(64))).double()
    s = (s - s.mean()) / s.std()
    for dim in (2, 3):
        assert abs((s * s.roll(1, dim)).mean() - correlation) < 0.02
        assert abs((s * s.roll(2, dim)).mean() - correlation**4) < 0.02


@pytest.mark.parametrize("correlation", [0.6, 0.95, 0.99])
def test_a_long_correlation_on_a_small_field_keeps_the_mean(correlation):
    rng = IndexedRandom(0, torch.arange(20_000))
    s = correlated_speckle(torch.ones(20_000, 1, 16, 16), 1, correlation, rng)
    assert abs(s.double().mean() - 1) < 0.03


def test_correlated_speckle_needs_a_multiple_of_half_a_look():
    with pytest.raises(UserError, match=r"data.looks=2.3.*needs multiples of 0.5"):
        make(looks=2.3, correlation=0.3)
    with pytest.raises(UserError, match=r"data.looks=\[1, 2.3\].*needs multiples of 0.5"):
        make(looks=[1, 2.3], correlation=0.3)


@pytest.mark.parametrize("source", sorted(SOURCES))
@pytest.mark.parametrize("correlation", [0.0, 0.33])
def test_each_image_draws_one_of_several_looks(source, correlation):
    torch.manual_seed(0)
    s = speckle_amplitude(ONES, [1, 4, 16], correlation, SOURCES[source]).double() ** 2
    looks = 1 / s.flatten(1).var(1)
    nearest = (looks[:, None].log2() - torch.tensor([0.0, 2.0, 4.0])).abs()
    assert nearest.min(1).values.max() < 0.5
    assert (nearest.argmin(1).bincount(minlength=3) > 8).all()  # of 64 images; about 21 expected for each


def test_scenes_are_cut_into_tiles_of_their_own_split():
    whole, cut = make(image_size=64), make(image_size=32, scene_size=64)
    assert cut.num_images("train") == 4 * whole.num_images("train")
    scene = whole.batch("train", torch.tensor([1])).clean
    tiles = cut.batch("train", torch.arange(4, 8)).clean
    assert torch.equal(torch.cat([torch.cat([*tiles[:2]], 2), torch.cat([*tiles[2:]], 2)], 1), scene[0])
    with pytest.raises(UserError, match="data.scene_size=48: expected a multiple of data.image_size=32"):
        make(scene_size=48)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.__name__)
def test_every_scene_family_has_structure(family):
    import numpy as np

    scene = family(np.random.default_rng(0), 64)
    assert scene.shape == (64, 64)
    assert np.isfinite(scene).all()
    assert scene.std() > 0.05


def test_a_scene_depends_only_on_its_seed_and_index():
    few, many = generate_scenes(6, 32, (1, 0)), generate_scenes(12, 32, (1, 0))
    assert (few == many[:6]).all()
    assert (generate_scenes(6, 32, (2, 0)) != few).any()
    assert (many[:6] != many[6:]).any()


def make(target="noisy", looks=1, correlation=0.0, image_size=32, scene_size=None):
    data = SpeckleData(
        num_train=8,
        num_val=6,
        num_test=6,
        looks=looks,
        correlation=correlation,
        target=target,
        scene_size=scene_size,
        image_size=image_size,
        channels=1,
        **SERVING,
    )
    data.setup()
    return data


def test_the_target_is_the_noisy_or_the_clean_image_and_the_reference_is_kept():
    noisy, clean = make("noisy").batch("val", torch.arange(6)), make("clean").batch("val", torch.arange(6))
    assert noisy.target is noisy.input
    assert clean.target is clean.clean
    assert torch.equal(noisy.input, clean.input)
    assert not torch.equal(clean.input, clean.target)
    assert 0 <= noisy.input.min() <= noisy.input.max() <= 1


def test_evaluation_speckle_does_not_depend_on_the_batch():
    data = make()
    whole = data.batch("test", torch.arange(6)).input
    assert torch.equal(data.batch("test", torch.tensor([4, 2])).input, whole[[4, 2]])
    assert not torch.equal(data.batch("val", torch.arange(6)).input, whole)
