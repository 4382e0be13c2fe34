"""Sprites with known factors, generated: to measure how far the dimensions of a latent are single factors."""

import math
from typing import Literal, Unpack

import torch
from torch import Tensor

from saaae.data.datamodule import ImageDataModule, Manifest, Serving, generated
from saaae.data.images import Images
from saaae.errors import UserError
from saaae.ranges import ImageSize, PositiveInt
from saaae.types import Split

FACTORS = {"shape": 3, "scale": 4, "rotation": 8, "x": 16, "y": 16}
"""Number of values of each factor; every combination is an image of the grid."""
GRID = math.prod(FACTORS.values())
SCALES, POSITIONS = (0.2, 0.4), (-0.5, 0.5)
"""Least and greatest circumradius and position of the centre, in halves of the side from the middle."""
RIGHT_ANGLE = math.pi / 2
CHUNK = 1024
"""Images that are drawn at once."""


def _square(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(x.abs(), y.abs()) - 0.5**0.5


def _ellipse(x: Tensor, y: Tensor) -> Tensor:
    """Semi-axes 1 and 1/2; to first order, which is exact at the outline."""
    level = torch.hypot(x, 2 * y)
    slope = torch.hypot(x, 4 * y) / level.clamp_min(1e-6)
    return (level - 1) / slope.clamp_min(1.0)


def _triangle(x: Tensor, y: Tensor) -> Tensor:
    """Isosceles, with corners at 90, 220 and 320 degrees of the unit circle."""
    base, half = math.sin(math.radians(40)), math.cos(math.radians(40))
    length = math.hypot(1 + base, half)
    return torch.maximum(-y - base, ((1 + base) * x.abs() + half * (y - 1)) / length)


SHAPES = (_square, _ellipse, _triangle)
"""Distance to the outline of a shape of circumradius 1, negative inside, of coordinates in its own frame."""


def sprites(factors: Tensor, size: int) -> Tensor:
    """Antialiased white sprites on black (N, 1, size, size), uint8, of the values (N, 5) of FACTORS, in their order.

    Rotations are less than a right angle, so that no two combinations look the same.
    """
    chunks = [_drawn(part, size) for part in factors.split(CHUNK)]
    return torch.cat(chunks) if chunks else torch.empty(0, 1, size, size, dtype=torch.uint8)


def _drawn(factors: Tensor, size: int) -> Tensor:
    def spaced(ends: tuple[float, float], count: int) -> Tensor:
        return torch.linspace(*ends, count)

    shape, scale, rotation, column, row = factors.unbind(1)
    radius = spaced(SCALES, FACTORS["scale"])[scale][:, None, None]
    angle = rotation[:, None, None] * (RIGHT_ANGLE / FACTORS["rotation"])
    pixels = (torch.arange(size) + 0.5) * (2 / size) - 1
    x = pixels[None, None, :] - spaced(POSITIONS, FACTORS["x"])[column][:, None, None]
    y = -pixels[None, :, None] - spaced(POSITIONS, FACTORS["y"])[row][:, None, None]
    u = (angle.cos() * x + angle.sin() * y) / radius
    v = (angle.cos() * y - angle.sin() * x) / radius
    distance = torch.empty_like(u)
    for number, outline in enumerate(SHAPES):
        chosen = shape == number
        distance[chosen] = outline(u[chosen], v[chosen])
    covered = (0.5 - distance * radius * (size / 2)).clamp(0, 1)  # of a pixel that a straight outline crosses
    return (covered * 255).round().to(torch.uint8)[:, None]


class FactorData(ImageDataModule):
    """Sprites of three shapes, four scales, eight rotations and 16 x 16 positions; 1.0 is white.

    The images are drawn from the grid of all combinations without replacement: none is in two splits.

    Args:
        num_train: Training images.
        num_val: Validation images.
        num_test: Test images.
        image_size: Side in pixels.
        channels: 1.
        **serving: How the images are served.
    """

    factor_names = tuple(FACTORS)

    def __init__(
        self,
        *,
        num_train: PositiveInt,
        num_val: PositiveInt,
        num_test: PositiveInt,
        image_size: ImageSize,
        channels: Literal[1],
        **serving: Unpack[Serving],
    ) -> None:
        super().__init__(image_size=image_size, channels=channels, **serving)
        self.counts: dict[Split, int] = {"train": num_train, "val": num_val, "test": num_test}
        if (total := num_train + num_val + num_test) > GRID:
            raise UserError(f"data.num_train, num_val, num_test: {total} images; expected at most {GRID} together")

    splits: dict[Split, Images]

    def load(self) -> dict[Split, Images]:
        """Draws the images of all splits."""
        return {split: Images(sprites(self.factors(split), self.image_size)) for split in self.counts}

    def factors(self, split: Split) -> Tensor:
        """The values of the factors of each image of a split (N, 5), int64, counted from 0."""
        order = torch.randperm(GRID, generator=torch.Generator().manual_seed(self.seed))
        parts = order[: sum(self.counts.values())].split(list(self.counts.values()))
        chosen = parts[list(self.counts).index(split)]
        return torch.stack(torch.unravel_index(chosen, tuple(FACTORS.values())), 1)

    def describe(self) -> Manifest:
        """Generated images; their digest changes with the generator."""
        return generated(self.splits, "sprites")
