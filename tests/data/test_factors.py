import math

import pytest
import torch

from saaae.data.factors import FACTORS, GRID, SCALES, FactorData, sprites
from saaae.errors import UserError
from tests.conftest import SERVING


def make(counts=(40, 10, 20), size=32, **changes):
    num_train, num_val, num_test = counts
    counts = {"num_train": num_train, "num_val": num_val, "num_test": num_test}
    data = FactorData(**counts, image_size=size, channels=1, **(SERVING | changes))
    data.setup()
    return data


def combinations(**fixed):
    """All combinations of values with some factors fixed."""
    ranges = [torch.tensor([fixed[k]]) if k in fixed else torch.arange(n) for k, n in FACTORS.items()]
    return torch.cartesian_prod(*ranges)


def test_no_two_combinations_look_the_same():
    factors = combinations(x=3, y=12)
    assert len(sprites(factors, 32).flatten(1).unique(dim=0)) == len(factors) == 96


def test_a_sprite_has_the_area_and_position_of_its_factors():
    """Exact areas of a square, an ellipse and a triangle of a circumradius, in pixels."""
    size = 64
    factors = combinations(x=0, y=5)
    images = sprites(factors, size).double()[:, 0] / 255
    radius = torch.linspace(*SCALES, FACTORS["scale"]).double()[factors[:, 1]] * size / 2
    base, half = math.sin(math.radians(40)), math.cos(math.radians(40))
    unit = torch.tensor([2.0, math.pi / 2, half * (1 + base)], dtype=torch.float64)[factors[:, 0]]
    torch.testing.assert_close(images.sum((1, 2)), unit * radius**2, rtol=0.03, atol=0.0)
    symmetric = factors[:, 0] < 2  # the centre of the circle is that of the shape
    axis = torch.arange(size, dtype=torch.float64) + 0.5
    column = (images.sum(1) @ axis / images.sum((1, 2)))[symmetric]
    row = (images.sum(2) @ axis / images.sum((1, 2)))[symmetric]
    assert (column - size / 4).abs().max() < 0.1
    assert (row - size * (0.5 - (-0.5 + 5 / 15) / 2)).abs().max() < 0.1


def test_every_sprite_is_inside_the_image():
    corners = torch.cat([combinations(scale=3, x=x, y=y) for x in (0, 15) for y in (0, 15)])
    images = sprites(corners, 32)
    assert images[..., 0].max() == images[..., 0, :].max() == images[..., -1].max() == images[..., -1, :].max() == 0
    assert images.flatten(1).amax(1).min() == 255


def test_the_factors_of_a_split_are_those_of_its_images():
    data = make()
    assert data.factor_names == ("shape", "scale", "rotation", "x", "y")
    for split, count in (("train", 40), ("val", 10), ("test", 20)):
        factors = data.factors(split)
        assert (factors.shape, factors.dtype) == ((count, 5), torch.int64)
        assert torch.equal(sprites(factors, 32), data.splits[split].pixels)
    everything = torch.cat([data.factors(split) for split in data.splits])
    assert len(everything.unique(dim=0)) == 70
    assert everything.amin(0).tolist() == [0] * 5
    assert everything.amax(0).tolist() == [count - 1 for count in FACTORS.values()]


def test_the_seed_chooses_the_images():
    first, again, other = make(), make(), make(seed=1)
    assert first.split_hash() == again.split_hash() != other.split_hash()
    batch = first.batch("test", torch.arange(4))
    assert batch.input.shape == (4, 1, 32, 32)
    assert 0.0 == batch.input.min() < batch.input.max() == 1.0


def test_more_images_than_combinations_are_refused():
    with pytest.raises(UserError, match=f"{GRID + 1} images; expected at most {GRID} together"):
        make((GRID - 29, 10, 20))
