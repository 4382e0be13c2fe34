import pytest
import torch
import yaml
from hydra.utils import instantiate

from saaae.data.corruption import Composition, GaussianNoise
from saaae.data.crops import random_crops
from saaae.data.defects import Blob, LocalBlur, Patch, Thread, Yarn, contrast, displaced
from saaae.errors import UserError
from saaae.rng import IndexedRandom
from tests.conftest import CONF, TINY

MANY = 300
PARTS = yaml.safe_load((CONF / "corruption" / "synthetic_defects.yaml").read_text())["parts"]


@pytest.fixture
def textures():
    """Weaves of different brightness with some noise."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.arange(64.0).view(-1, 1), torch.arange(64.0)
    weave = 0.5 + 0.1 * torch.sin(1.3 * rows) * torch.sin(0.9 * columns)
    return (weave + 0.02 * torch.randn(MANY, 1, 64, 64, generator=generator)).clamp(0, 1)


def rng(count=MANY):
    return IndexedRandom(0, torch.arange(count))


def test_four_in_five_images_get_a_defect(textures):
    defects = instantiate(yaml.safe_load((CONF / "corruption" / "synthetic_defects.yaml").read_text()))
    changed = ((defects(textures, rng()) - textures).abs() > 1e-4).flatten(1).any(1)
    assert 0.75 < changed.float().mean() < 0.87


@pytest.mark.parametrize("name", PARTS)
def test_each_kind_changes_most_images_in_a_small_part(textures, name):
    changed = ((instantiate(PARTS[name])(textures, rng()) - textures).abs() > 0.02).float().mean((1, 2, 3))
    assert (changed > 0).float().mean() > 0.7
    assert 0.002 < changed.mean() < 0.3


@pytest.mark.parametrize(
    "kind",
    [
        Blob(amplitude=[1.0, 2.0], size=[2.0, 8.0]),
        Thread(amplitude=[1.0, 2.0], length=[20.0, 60.0], width=[1.0, 2.0], bend=0.3),
    ],
)
def test_the_amplitude_is_in_standard_deviations_of_the_image(textures, kind):
    change = (kind.corrupt(textures, rng()) - textures) / contrast(textures)
    strongest = change.abs().flatten(1).amax(1)
    assert strongest.max() < 2.001
    assert strongest.median() > 0.9
    brighter = change.flatten(1).sum(1) > 0
    assert 0.4 < brighter.float().mean() < 0.6


def test_pixels_are_taken_from_where_the_displacement_says(textures):
    zero = torch.zeros(MANY, 1, 64, 64)
    torch.testing.assert_close(displaced(textures, zero, zero), textures)
    moved = displaced(textures, zero + 3, zero - 2)
    torch.testing.assert_close(moved[..., 2:, :-3], textures[..., :-2, 3:], rtol=0, atol=1e-5)


def test_a_displaced_patch_has_pixels_of_another_place(textures):
    ramp = torch.linspace(0.2, 0.8, 64).expand(MANY, 1, 64, 64)
    patch = Patch(size=[6.0, 6.0], shift=[5.0, 5.0], turn=[0.0, 0.0], zoom=1.0)
    shift = ((patch.corrupt(ramp, rng()) - ramp) * 63 / 0.6).flatten(1)
    farthest = shift.abs().amax(1)  # in pixels along the ramp: the shift goes in all directions
    assert farthest.max() == pytest.approx(5, abs=0.01)
    assert 2 < farthest.median() < 5
    assert (shift.abs() > 0.5).float().mean() < 0.06


def test_a_missing_yarn_closes_the_texture_up_and_a_thick_one_stretches_it():
    ramp = torch.linspace(0.1, 0.9, 64).expand(MANY, 1, 64, 64)
    yarn = Yarn(amplitude=[1e-6, 1e-6], width=[2.0, 2.0], length=[256.0, 256.0])
    slope = (yarn.corrupt(ramp, rng()).diff(dim=-1) * 63 / 0.8)[:, 0, 32]  # of the columns: 1 where nothing changed
    steepest = slope.amax(1)
    assert 0.15 < (steepest > 1.5).float().mean() < 0.35  # a jump over the missing yarn, of half of those across
    assert 0.15 < ((slope.amin(1) < 0.7) & (steepest < 1.5)).float().mean() < 0.35


def test_a_composition_makes_defects_if_a_part_does():
    noise, blob = GaussianNoise(std=0.1), Blob(amplitude=[1.0, 2.0], size=[2.0, 8.0])
    assert Composition(parts={"a": noise, "b": blob}, probability=0.5).makes_defects
    assert not Composition(parts={"a": noise}, probability=0.5).makes_defects


def test_real_defects_are_looked_for_in_images_without_synthetic_ones(compose_config):
    from saaae.runs.run import resolve_config
    from saaae.training.build import build

    _, data = build(resolve_config(compose_config(*TINY, "corruption=synthetic_defects")))
    batch = data.batch("val", torch.arange(6), without_defects=True)
    assert torch.equal(batch.input, batch.target)
    assert not torch.equal(data.batch("val", torch.arange(6)).input, batch.target)
    _, data = build(resolve_config(compose_config(*TINY, "corruption=gaussian")))
    batch = data.batch("val", torch.arange(6), without_defects=True)
    assert not torch.equal(batch.input, batch.target)


def test_a_range_has_two_ends_and_a_window_is_odd():
    from saaae.config.signature import mismatch, signature

    annotation = signature("saaae.data.defects.Blob").parameters["size"].annotation
    assert mismatch(annotation, [1.0, 2.0]) is None
    assert mismatch(annotation, [1.0]) == mismatch(annotation, [1.0, 2.0, 3.0]) == "a list of 2 items"
    with pytest.raises(UserError, match="a blur over a window of 4 pixels; expected an odd number"):
        LocalBlur(size=[2.0, 3.0], window=4)


def test_crops_are_mirrored_shaded_squares_of_their_image():
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    x = (0.4 + 0.001 * rows + 0.00003 * columns).expand(200, 1, 32, 32)
    crops = random_crops(x, 8, 0.0, rng(200))
    assert crops.shape == (200, 1, 8, 8)
    middle = crops[..., 3:5, 3:5].mean((1, 2, 3))
    assert 0.4 < middle.min() < 0.408
    assert 0.424 < middle.max() < 0.433  # all places occur
    ratio = crops.amax((1, 2, 3)) / crops.amin((1, 2, 3))
    assert ratio.max() < 1.55
    assert torch.equal(random_crops(x, 8, 0.0, rng(200)), crops)
    whole = random_crops(torch.rand(50, 1, 16, 16), 16, 0.0, rng(50))
    assert whole.shape[-1] == 16


def test_crops_get_noise_of_up_to_a_part_of_their_contrast():
    stripes = (0.4 + 0.2 * (torch.arange(64) % 2)).expand(200, 1, 64, 64)
    curvature = random_crops(stripes, 32, 0.2, rng(200)).diff(n=2, dim=-2)  # along a stripe all but the noise is linear
    noise = curvature.std((1, 2, 3)) / 6**0.5 / 0.1
    assert 0.9 * 0.2 < noise.max() < 1.2 * 0.2
    assert noise.min() < 0.1 * 0.2
