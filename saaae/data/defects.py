"""Synthetic defects of a texture: what a model learns to restore and to mark when it has seen sound images only.

Each kind changes every image of a batch (B, C, H, W) at a random place, by batched operations on its device; a
`Composition` decides which images get which kinds. No kind looks at another image, so that the defect of an image does
not depend on its batch. Lengths are in pixels, amplitudes in standard deviations of the image's own pixels.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample

from saaae.data.corruption import Corruption, per_image
from saaae.errors import UserError
from saaae.ranges import Angles, Interval, NonNegativeFloat, PositiveFloat, PositiveInt
from saaae.rng import RandomSource

TILT = 0.05
"""Largest angle in radians between a yarn and the axis that it runs along."""
FADE = 4.0
"""Pixels over which the end of a yarn fades."""


def between(limits: Interval, x: Tensor, rng: RandomSource) -> Tensor:
    """A number of each image (B, 1, 1, 1), its logarithm uniform between two limits."""
    low, high = limits
    return low * (high / low) ** rng.uniform(per_image(x))


def signed(x: Tensor, rng: RandomSource) -> Tensor:
    """A number of each image (B, 1, 1, 1), uniform on (-1, 1]."""
    return 2.0 * rng.uniform(per_image(x)) - 1.0


def either(x: Tensor, rng: RandomSource) -> Tensor:
    """-1 or 1 of each image (B, 1, 1, 1)."""
    return torch.where(rng.uniform(per_image(x)) <= 0.5, -1.0, 1.0)


def contrast(x: Tensor) -> Tensor:
    """Standard deviation of the pixels of each image (B, 1, 1, 1)."""
    return x.std((1, 2, 3), keepdim=True, correction=0)


def axes_at_random(x: Tensor, angle: Tensor, rng: RandomSource) -> tuple[Tensor, Tensor]:
    """Coordinates (B, 1, H, W) of each pixel around a random point of its image.

    Args:
        x: The images (B, C, H, W).
        angle: Direction of the first axis of each image (B, 1, 1, 1), in radians from its rows.
        rng: Source of the points.

    Returns:
        Pixels along the direction, and across it.
    """
    height, width = x.shape[-2:]
    down = torch.arange(height, device=x.device).view(1, 1, -1, 1) + 0.5 - height * rng.uniform(per_image(x))
    right = torch.arange(width, device=x.device).view(1, 1, 1, -1) + 0.5 - width * rng.uniform(per_image(x))
    return angle.cos() * right + angle.sin() * down, angle.cos() * down - angle.sin() * right


def displaced(x: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """Images whose pixels are those of other places, reflected at the border; bilinear.

    Args:
        x: Images (B, C, H, W).
        right: How many pixels further right each pixel is taken from (B, 1, H, W).
        down: How many further down.
    """
    height, width = x.shape[-2:]
    columns = torch.arange(width, device=x.device).view(1, 1, 1, -1) + 0.5 + right
    rows = torch.arange(height, device=x.device).view(1, 1, -1, 1) + 0.5 + down
    grid = torch.stack(torch.broadcast_tensors(2 * columns / width - 1, 2 * rows / height - 1), -1)[:, 0]
    return grid_sample(x, grid.expand(len(x), -1, -1, -1), padding_mode="reflection", align_corners=False)


class Defect(Corruption):
    """Base of the defects."""

    makes_defects = True


class Blob(Defect):
    """A dark or bright spot with a soft or sharp border: a knot, nep or stain.

    Args:
        amplitude: Least and greatest change of brightness in its middle.
        size: Least and greatest standard deviation of each of its axes.
    """

    def __init__(self, *, amplitude: Interval, size: Interval) -> None:
        super().__init__()
        self.amplitude, self.size = amplitude, size

    def corrupt(self, x: Tensor, rng: RandomSource) -> Tensor:
        along, across = axes_at_random(x, math.pi * rng.uniform(per_image(x)), rng)
        radius = (along / between(self.size, x, rng)) ** 2 + (across / between(self.size, x, rng)) ** 2
        profile = torch.exp(-((radius / 2) ** between([1.0, 4.0], x, rng)))
        return x + either(x, rng) * between(self.amplitude, x, rng) * contrast(x) * profile


class Thread(Defect):
    """A dark or bright curved line: a loose thread or a crease.

    Args:
        amplitude: Least and greatest change of brightness.
        length: Least and greatest length.
        width: Least and greatest standard deviation across.
        bend: How far it bends away from a straight line, at most, as a part of its length.
    """

    def __init__(self, *, amplitude: Interval, length: Interval, width: Interval, bend: NonNegativeFloat) -> None:
        super().__init__()
        self.amplitude, self.length, self.width, self.bend = amplitude, length, width, bend

    def corrupt(self, x: Tensor, rng: RandomSource) -> Tensor:
        """Follows the sum of a parabola and a wave."""
        along, across = axes_at_random(x, math.pi * rng.uniform(per_image(x)), rng)
        length, width = between(self.length, x, rng), between(self.width, x, rng)
        arc, wave = self.bend * signed(x, rng), 0.2 * self.bend * signed(x, rng)
        turns, phase = 2 * math.pi * between([1.0, 3.0], x, rng), 2 * math.pi * rng.uniform(per_image(x))
        place = (along / length).clamp(-0.5, 0.5)
        course = length * (4 * arc * place**2 + wave * torch.sin(turns * place + phase))
        slope = 8 * arc * place + wave * turns * torch.cos(turns * place + phase)
        distance = (across - course) / torch.sqrt(1 + slope**2)
        profile = torch.exp(-0.5 * (distance / width) ** 2) * torch.sigmoid((length / 2 - along.abs()) / width)
        return x + either(x, rng) * between(self.amplitude, x, rng) * contrast(x) * profile


class Patch(Defect):
    """A rectangle that shows another part of the image: displaced, rotated, or at the scale of another texture.

    Args:
        size: Least and greatest half side of each of its sides.
        shift: Least and greatest distance that it is displaced by, in whole pixels.
        turn: Least and greatest angle in degrees that it is rotated by.
        zoom: Greatest factor on the scale of its texture, which is enlarged or reduced; 1 for neither.
    """

    def __init__(self, *, size: Interval, shift: Interval, turn: Angles, zoom: PositiveFloat) -> None:
        super().__init__()
        self.size, self.shift, self.turn, self.zoom = size, shift, turn, zoom

    def corrupt(self, x: Tensor, rng: RandomSource) -> Tensor:
        angle = math.pi * rng.uniform(per_image(x))
        along, across = axes_at_random(x, angle, rng)
        sides = between(self.size, x, rng) - along.abs(), between(self.size, x, rng) - across.abs()
        inside = torch.sigmoid(2 * torch.minimum(*sides))
        right = angle.cos() * along - angle.sin() * across
        down = angle.sin() * along + angle.cos() * across
        low, high = self.turn
        turn = torch.deg2rad(low + (high - low) * rng.uniform(per_image(x))) * either(x, rng)
        scale = self.zoom ** signed(x, rng)
        towards, distance = 2 * math.pi * rng.uniform(per_image(x)), between(self.shift, x, rng)
        from_right = scale * (turn.cos() * right - turn.sin() * down) - right + (distance * towards.cos()).round()
        from_down = scale * (turn.sin() * right + turn.cos() * down) - down + (distance * towards.sin()).round()
        return torch.lerp(x, displaced(x, from_right, from_down), inside)


class Yarn(Defect):
    """A missing or a thick yarn along the rows or columns: a band is left out, or widened.

    Where a yarn is missing the texture on both sides closes up; where one is thick the band is stretched. Half of them
    also become darker or brighter.

    Args:
        amplitude: Least and greatest change of brightness.
        width: Least and greatest half width of the band.
        length: Least and greatest length.
    """

    def __init__(self, *, amplitude: Interval, width: Interval, length: Interval) -> None:
        super().__init__()
        self.amplitude, self.width, self.length = amplitude, width, length

    def corrupt(self, x: Tensor, rng: RandomSource) -> Tensor:
        angle = torch.where(rng.uniform(per_image(x)) <= 0.5, 0.0, math.pi / 2) + TILT * signed(x, rng)
        along, across = axes_at_random(x, angle, rng)
        width = between(self.width, x, rng)
        inside = torch.sigmoid((between(self.length, x, rng) / 2 - along.abs()) / (FADE / 2))
        missing = width * across.sign() * torch.exp(-across.abs() / (3 * width))
        thick = -0.5 * across * torch.exp(-0.5 * (across / (1.5 * width)) ** 2)
        move = torch.where(rng.uniform(per_image(x)) <= 0.5, missing, thick) * inside
        moved = displaced(x, -angle.sin() * move, angle.cos() * move)
        colored = torch.where(rng.uniform(per_image(x)) <= 0.5, between(self.amplitude, x, rng), 0.0) * either(x, rng)
        return moved + colored * contrast(x) * inside * torch.exp(-0.5 * (across / width) ** 2)


class LocalBlur(Defect):
    """A spot in which the texture is blurred.

    Args:
        size: Least and greatest half axis of the spot.
        window: Side of the two moving averages that blur it, odd: a standard deviation of 2 pixels for 5.
    """

    def __init__(self, *, size: Interval, window: PositiveInt) -> None:
        super().__init__()
        if window % 2 == 0:
            raise UserError(f"corruption: a blur over a window of {window} pixels; expected an odd number")
        self.size, self.window = size, window

    def corrupt(self, x: Tensor, rng: RandomSource) -> Tensor:
        along, across = axes_at_random(x, math.pi * rng.uniform(per_image(x)), rng)
        radius = (along / between(self.size, x, rng)) ** 2 + (across / between(self.size, x, rng)) ** 2
        blurred = x
        for _ in range(2):  # many times faster on a CPU than a convolution of one channel
            blurred = avg_pool2d(blurred, self.window, 1, self.window // 2, count_include_pad=False)
        return torch.lerp(x, blurred, torch.sigmoid(8 * (1 - radius)))
