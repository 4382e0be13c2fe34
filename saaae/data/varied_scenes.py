"""Further families of synthetic scenes (`data.families=varied`), for despecklers of real images.

Those of `saaae.data.scenes` have no fine periodic texture, no direction, no thin curved line and few gradients, and a
network trained on them alone removes such things. As there, every family draws an amplitude image that is clipped to
[0.04, 1], a function of its random generator alone.
"""

import itertools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from saaae.data.scenes import HIGHEST, LOWEST, Image, grid, power_law_field


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A number whose logarithm is uniform."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def patches(rng: np.random.Generator, size: int, draw: Callable[[np.random.Generator, int], Image]) -> Image:
    """One to four images, each in its share of the scene, which ends at a contour of a smooth field."""
    count = int(rng.integers(1, 5))
    field = power_law_field(rng, size, rng.uniform(1.8, 2.4))
    share = np.searchsorted(np.quantile(field, np.arange(1, count) / count), field)
    return np.choose(share, [draw(rng, size) for _ in range(count)]).astype(np.float32)


def plane_wave(rng: np.random.Generator, size: int, angle: float, pitch: float) -> Image:
    """Phase (size, size) of a wave of `pitch` pixels a period in the direction `angle`."""
    y, x = grid(size)
    return 2 * np.pi * (np.float32(rng.random()) + (np.cos(angle) * x + np.sin(angle) * y) / pitch)


def oriented_field(rng: np.random.Generator, size: int, exponent: float, stretch: float) -> Image:
    """A power-law field in [0, 1], `stretch` times longer in one random direction than across it."""
    fy, fx = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :]
    angle = rng.uniform(0, np.pi)
    along, across = np.cos(angle) * fx + np.sin(angle) * fy, np.cos(angle) * fy - np.sin(angle) * fx
    frequency = np.hypot(along * stretch, across) + 1.0 / size
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((size, size))) / frequency**exponent, s=(size, size))
    low, high = np.quantile(field, [0.005, 0.995])
    return ((field - low) / (high - low)).clip(0, 1).astype(np.float32)


def stroke(image: Image, y: NDArray[np.float64], x: NDArray[np.float64], width: int, level: float) -> None:
    """Draws a line of `width` pixels along points that lie less than a pixel apart; parts outside are left out."""
    offsets = np.arange(width) - (width - 1) / 2
    for dy, dx in itertools.product(offsets, offsets):
        row, column = np.rint(y + dy).astype(int), np.rint(x + dx).astype(int)
        inside = (row >= 0) & (row < len(image)) & (column >= 0) & (column < len(image))
        image[row[inside], column[inside]] = level


def lattice(rng: np.random.Generator, size: int) -> Image:
    """Oblique lattices of spots or holes, 3 to 12 pixels apart, each patch with another."""
    return patches(rng, size, _one_lattice)


def _one_lattice(rng: np.random.Generator, size: int) -> Image:
    angle, pitch = rng.uniform(0, np.pi), log_uniform(rng, 3, 12)
    second = angle + np.radians(rng.uniform(55, 125))
    height = np.cos(plane_wave(rng, size, angle, pitch))
    height = height + np.cos(plane_wave(rng, size, second, pitch * rng.uniform(0.8, 1.5)))
    spots = 1 / (1 + np.exp(-log_uniform(rng, 1, 8) * (height - rng.uniform(-0.6, 1.0))))
    return _between(rng, spots) * (0.8 + 0.4 * power_law_field(rng, size, 1.8))


def _between(rng: np.random.Generator, share: NDArray[np.floating]) -> Image:
    """Amplitudes between two random levels, dark on bright or bright on dark."""
    ground, top = log_uniform(rng, 0.06, 0.7), log_uniform(rng, 0.06, 1.0)
    return (ground + (top - ground) * share).astype(np.float32)


def stripes(rng: np.random.Generator, size: int) -> Image:
    """Furrows, 2.5 to 24 pixels a period, straight or bent, smooth or sharp, in patches of another direction each."""
    return patches(rng, size, _one_direction)


def _one_direction(rng: np.random.Generator, size: int) -> Image:
    phase = plane_wave(rng, size, rng.uniform(0, np.pi), log_uniform(rng, 2.5, 24))
    phase = phase + rng.choice([0.0, 8.0, 25.0]) * power_law_field(rng, size, 2.2)
    wave = np.tanh(log_uniform(rng, 0.3, 6) * (np.sin(phase) - rng.uniform(-0.5, 0.5)))
    low, high = wave.min(), wave.max()
    return _between(rng, (wave - low) / (high - low)) * (0.8 + 0.4 * power_law_field(rng, size, 1.8))


def grain(rng: np.random.Generator, size: int) -> Image:
    """Rough surfaces: power-law textures, isotropic or up to eight times longer in one direction."""
    return patches(rng, size, _one_surface)


def _one_surface(rng: np.random.Generator, size: int) -> Image:
    texture = oriented_field(rng, size, rng.uniform(0.4, 1.6), log_uniform(rng, 1, 8))
    contrast = rng.uniform(0.2, 1.6)
    return log_uniform(rng, 0.1, 0.8) * (1 + contrast * (texture - 0.5))


def curves(rng: np.random.Generator, size: int) -> Image:
    """Random walks of one to four pixels, bright and dark, on a plain with relief."""
    image = rng.uniform(0.1, 0.7) * (0.6 + 0.8 * power_law_field(rng, size, rng.uniform(1.2, 2.0)))
    for _ in range(rng.integers(6, 16)):
        heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, rng.choice([0.01, 0.03, 0.08]), 3 * size))
        y, x = rng.uniform(0, size, (2, 1)) + 0.7 * np.cumsum([np.sin(heading), np.cos(heading)], 1)
        stroke(image, y, x, int(rng.integers(1, 5)), float(rng.choice([LOWEST, 0.1, 0.6, 0.8, HIGHEST])))
    return image


def town(rng: np.random.Generator, size: int) -> Image:
    """Walls and roofs in two directions with shadows beside them, and isolated scatterers, on dark ground."""
    image = log_uniform(rng, 0.05, 0.4) * (0.6 + 0.8 * oriented_field(rng, size, 1.0, 2.0))
    first = rng.uniform(0, np.pi)
    for _ in range(size // 4):
        angle, length = first + rng.choice([0, np.pi / 2]), log_uniform(rng, 4, size / 4)
        along = np.arange(0, length, 0.7)
        (y, x), width = rng.uniform(0, size, 2), int(rng.integers(1, 4))
        y, x = y + np.sin(angle) * along, x + np.cos(angle) * along
        if rng.random() < 0.5:
            stroke(image, y + np.cos(angle) * 3, x - np.sin(angle) * 3, int(rng.integers(2, 7)), LOWEST)
        stroke(image, y, x, width, log_uniform(rng, 0.25, 1.0))
    for y, x in rng.uniform(0, size, (size // 4, 2)):
        stroke(image, np.array([y]), np.array([x]), int(rng.integers(1, 3)), log_uniform(rng, 0.4, 1.0))
    return image


def slopes(rng: np.random.Generator, size: int) -> Image:
    """A plane cut by straight lines into pieces, each with a level and a gradient of its own."""
    y, x = grid(size)
    piece = np.zeros((size, size), int)
    for number in range(rng.integers(3, 9)):
        angle = rng.uniform(0, np.pi)
        through = rng.uniform(0, size, 2)
        side = np.cos(angle) * (x - through[1]) + np.sin(angle) * (y - through[0]) > 0
        piece += side << number
    levels, down, right = rng.uniform(LOWEST, HIGHEST, 256), *rng.normal(0, 0.4, (2, 256))
    return levels[piece] + down[piece] * (y / size - 0.5) + right[piece] * (x / size - 0.5)


def shores(rng: np.random.Generator, size: int) -> Image:
    """Islands in calm or rough water that brightens to one side; bright lines of surf, some ships."""
    height = power_law_field(rng, size, rng.uniform(1.6, 2.2))
    level = np.quantile(height, rng.uniform(0.3, 0.7))
    _, x = grid(size)
    water = log_uniform(rng, LOWEST, 0.2) * (1 + 1.5 * x / size) * (0.8 + 0.4 * oriented_field(rng, size, 1.0, 4.0))
    land = log_uniform(rng, 0.2, 0.7) * (0.5 + oriented_field(rng, size, rng.uniform(0.6, 1.4), 2.0))
    image = np.where(height > level, land, water).astype(np.float32)
    across = (height - level) / np.maximum(np.hypot(*np.gradient(height)), 1e-6)
    if rng.random() < 0.5:
        image[np.abs(across) < rng.uniform(0.5, 1.5)] = rng.uniform(0.6, 1.0)
    for y, x in rng.uniform(0, size, (10, 2)):
        if height[int(y), int(x)] < level:
            angle, along = rng.uniform(0, np.pi), np.arange(0, rng.uniform(1, 6), 0.7)
            stroke(image, y + np.sin(angle) * along, x + np.cos(angle) * along, int(rng.integers(1, 4)), HIGHEST)
    return image


VARIED = (lattice, stripes, grain, curves, town, slopes, shores)
