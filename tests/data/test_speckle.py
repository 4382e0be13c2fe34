import itertools
import math

import pytest
import torch

from saaae.data.scenes import FAMILIES, generate_scenes
from saaae.data.speckle import SpeckleData
from saaae.data.speckle_model import correlated_speckle, gamma_speckle, mixed_speckle, speckle_amplitude
from saaae.data.varied_scenes import VARIED
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
    with pytest.raises(UserError, match=r"data.looks=2.3.*needs multiples of 0.5"):
        make(looks=2.3, correlation=[0.0])


@pytest.mark.parametrize("source", sorted(SOURCES))
@pytest.mark.parametrize("correlation", [0.0, 0.33])
def test_each_image_draws_one_of_several_looks(source, correlation):
    torch.manual_seed(0)
    s = speckle_amplitude(ONES, [1, 4, 16], correlation, SOURCES[source]).double() ** 2
    looks = 1 / s.flatten(1).var(1)
    nearest = (looks[:, None].log2() - torch.tensor([0.0, 2.0, 4.0])).abs()
    assert nearest.min(1).values.max() < 0.5
    assert (nearest.argmin(1).bincount(minlength=3) > 8).all()  # of 64 images; about 21 expected for each


# Of 4 images of ones, 16 pixels square, drawn for evaluation with seed 0: mean amplitude, [1, 0, 3, 5], [3, 0, 15, 15].
STORED = {
    (1, 0.0): (0.9091964, 0.3990568, 0.6583859),
    (1, 0.33): (0.8878774, 0.7875918, 0.4799083),
    (2.5, 0.0): (0.9604322, 0.5830513, 1.0092739),
    (2.5, 0.33): (0.9511766, 0.6167530, 1.1183218),
    ((1, 4, 16), 0.0): (0.9820260, 1.0797765, 0.8018176),
    ((1, 4, 16), 0.33): (0.9615966, 1.0192095, 1.1340154),
}


@pytest.mark.parametrize(("looks", "correlation"), STORED)
def test_speckle_of_one_correlation_is_that_of_stored_runs(looks, correlation):
    choices = list(looks) if isinstance(looks, tuple) else looks
    s = speckle_amplitude(torch.ones(4, 1, 16, 16), choices, correlation, IndexedRandom(0, torch.arange(4)))
    found = (s.mean().item(), s[1, 0, 3, 5].item(), s[3, 0, 15, 15].item())
    assert found == pytest.approx(STORED[looks, correlation], abs=2e-6)


def correlation_of_neighbours(s):
    """Correlation (B,) of images (B, 1, H, W) of mean 1 with themselves, one pixel to the right and one down."""
    s = s - s.mean((1, 2, 3), keepdim=True)
    shifted = 0.5 * (s * s.roll(1, 2) + s * s.roll(1, 3))
    return shifted.mean((1, 2, 3)) / s.var((1, 2, 3), correction=0)


@pytest.mark.parametrize("source", sorted(SOURCES))
def test_of_several_correlations_each_image_draws_one_apart_from_its_looks(source):
    torch.manual_seed(0)
    s = mixed_speckle(torch.ones(64, 1, 128, 128), [1, 2.5, 16], [0.0, 0.6], SOURCES[source]).double()
    assert (s.mean((1, 2, 3)) - 1).abs().max() < 0.05
    looks, found = 1 / s.var((1, 2, 3)), correlation_of_neighbours(s)
    nearest = (looks[:, None].log2() - torch.tensor([1.0, 2.5, 16.0]).log2()).abs()
    assert nearest.min(1).values.max() < 0.4
    white = found < 0.3
    assert found[white].abs().max() < 0.03
    assert (found[~white] - 0.6).abs().max() < 0.06
    pairs = (2 * nearest.argmin(1) + white.long()).bincount(minlength=6)
    assert (pairs >= 3).all()  # of 64, 11 each expected


@pytest.mark.parametrize("looks", [1, 3, 2.5])
def test_white_members_of_a_mixed_list_follow_the_gamma_law(looks):
    rng = IndexedRandom(0, torch.arange(64))
    s = mixed_speckle(torch.ones(64, 1, 64, 64), [looks], [0.0, 0.6], rng).double()
    s = s[correlation_of_neighbours(s) < 0.3].flatten()
    law = torch.distributions.Gamma(torch.tensor(looks, dtype=torch.float64), torch.tensor(looks, dtype=torch.float64))
    expected = law.cdf(s.sort().values)
    observed = torch.arange(1, len(s) + 1) / len(s)
    assert (expected - observed).abs().max() < 1.95 / len(s) ** 0.5  # Kolmogorov and Smirnov, significance 0.001


def test_mixed_evaluation_speckle_does_not_depend_on_the_batch():
    data = make("clean", looks=[1, 2.5, 10], correlation=[0.0, 0.6])
    whole = data.batch("test", torch.arange(6)).input
    assert torch.equal(data.batch("test", torch.tensor([4, 2])).input, whole[[4, 2]])


def test_unclipped_speckle_exceeds_one_and_clips_to_the_clipped_one():
    clipped, whole = (make("clean", clip=clip).batch("val", torch.arange(6)) for clip in (True, False))
    assert whole.input.max() > 1
    assert torch.equal(whole.input.clamp(0, 1), clipped.input)
    assert torch.equal(whole.clean, clipped.clean)
    with pytest.raises(UserError, match="data.clip=false: a noisy target would exceed 1; expected data.target=clean"):
        make("noisy", clip=False)


def test_scenes_are_cut_into_tiles_of_their_own_split():
    whole, cut = make(image_size=64), make(image_size=32, scene_size=64)
    assert cut.num_images("train") == 4 * whole.num_images("train")
    scene = whole.batch("train", torch.tensor([1])).clean
    tiles = cut.batch("train", torch.arange(4, 8)).clean
    assert torch.equal(torch.cat([torch.cat([*tiles[:2]], 2), torch.cat([*tiles[2:]], 2)], 1), scene[0])
    with pytest.raises(UserError, match="data.scene_size=48: expected a multiple of data.image_size=32"):
        make(scene_size=48)


@pytest.mark.parametrize("family", [*FAMILIES, *VARIED], ids=lambda f: f.__name__)
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


def make(
    target="noisy", looks=1, correlation=0.0, image_size=32, scene_size=None, clip=True, families="basic", gain=None
):
    data = SpeckleData(
        num_train=8,
        num_val=6,
        num_test=6,
        looks=looks,
        correlation=correlation,
        clip=clip,
        target=target,
        families=families,
        gain=gain,
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


def test_the_second_target_is_an_independent_draw_of_the_same_scene():
    data = make("second", looks=1, clip=False)
    batch = data.batch("val", torch.arange(6))
    first, second = ((amplitude / batch.clean) ** 2 for amplitude in (batch.input, batch.target))
    assert abs(second.mean() - 1) < 0.05
    assert abs(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1]) < 0.05


@pytest.mark.parametrize("target", ["noisy", "clean", "second"])
def test_a_gain_multiplies_all_images_of_training_and_keeps_what_is_compared(target):
    torch.manual_seed(0)
    data = make(target, gain=[0.3, 0.9], clip=target != "second")
    batch = data.batch("train", torch.arange(8))
    changed = data.augmented(batch._replace(rng=GlobalRandom()))
    factors = changed.clean.amax((1, 2, 3)) / batch.clean.amax((1, 2, 3))
    assert 0.299 < factors.min() < factors.max() < 0.901
    assert factors.std() > 0.05
    for name in ("input", "target", "clean"):
        expected = factors.view(-1, 1, 1, 1) * getattr(batch, name)
        torch.testing.assert_close(getattr(changed, name), expected)
    assert (changed.target is changed.input, changed.target is changed.clean) == (target == "noisy", target == "clean")


def test_a_clipped_second_look_is_refused():
    with pytest.raises(UserError, match="data.clip=true: a clipped second look is darker on average"):
        make("second")


def test_varied_scenes_begin_with_the_basic_ones():
    basic, varied = make().splits["train"].pixels, make(families="varied").splits["train"].pixels
    assert torch.equal(varied[:6], basic[:6])
    assert not torch.equal(varied[6:], basic[6:])


@pytest.mark.parametrize("gain", [[0.9, 0.3], [0.5, 1.5]])
def test_a_gain_that_cannot_be_is_refused(gain):
    with pytest.raises(UserError, match="data.gain="):
        make(gain=gain)
