"""Synthetic reflectivity scenes: clean images for simulated speckle, generated, so free of downloads and licences.

Every family draws an amplitude image in [0.04, 1] with the structures that despeckling is judged by: flat areas,
edges, texture, thin lines and points. A scene is a function of its random generator alone.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]
Family = Callable[[np.random.Generator, int], Image]
LOWEST, HIGHEST = 0.04, 1.0


def grid(size: int) -> tuple[Image, Image]:
    """Rows (size, 1) and columns (1, size) of an image."""
    axis = np.arange(size, dtype=np.float32)
    return axis[:, None], axis[None, :]


def power_law_field(rng: np.random.Generator, size: int, exponent: float) -> Image:
    """A Gaussian random field whose amplitude spectrum falls as frequency**-exponent, scaled to [0, 1]."""
    fy, fx = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :]
    frequency = np.hypot(fy, fx)
    frequency[0, 0] = 1.0
    spectrum = np.fft.rfft2(rng.standard_normal((size, size))) / frequency**exponent
    spectrum[0, 0] = 0.0
    field = np.fft.irfft2(spectrum, s=(size, size))
    return ((field - field.min()) / np.ptp(field)).astype(np.float32)


def leaves(rng: np.random.Generator, size: int) -> Image:
    """Dead leaves: overlapping flat disks, radii by a power law."""
    y, x = grid(size)
    image = np.full((size, size), rng.uniform(0.1, 0.9), np.float32)
    num_leaves = 60
    radii = size * 0.04 * (1.0 - rng.random(num_leaves) * 0.98) ** -0.5
    for radius, (cy, cx), level in zip(
        radii, rng.uniform(0, size, (num_leaves, 2)), rng.uniform(LOWEST, HIGHEST, num_leaves), strict=True
    ):
        image[(y - cy) ** 2 + (x - cx) ** 2 < radius**2] = level
    return image


def textured_leaves(rng: np.random.Generator, size: int) -> Image:
    """Dead leaves under a fine multiplicative texture."""
    return leaves(rng, size) * (0.6 + 0.8 * power_law_field(rng, size, 0.6))


def fields(rng: np.random.Generator, size: int) -> Image:
    """Agricultural parcels (Voronoi cells) with thin dark roads between them."""
    y, x = grid(size)
    sites = rng.uniform(0, size, (max(6, size // 6), 2)).astype(np.float32)
    stretch = rng.uniform(0.5, 2.0)
    distance = (y[..., None] - sites[:, 0]) ** 2 * stretch + (x[..., None] - sites[:, 1]) ** 2 / stretch
    order = np.argpartition(distance, 1, axis=-1)
    two = np.sqrt(np.take_along_axis(distance, order[..., :2], -1))
    image = rng.uniform(0.15, 0.85, len(sites)).astype(np.float32)[order[..., 0]]
    image[np.abs(two[..., 1] - two[..., 0]) < 1.0] = LOWEST
    return image


def terrain(rng: np.random.Generator, size: int) -> Image:
    """Rolling 1/f relief."""
    return power_law_field(rng, size, rng.uniform(1.3, 1.9))


def urban(rng: np.random.Generator, size: int) -> Image:
    """City blocks on a rotated street grid, with bright double-bounce edges and point targets."""
    y, x = grid(size)
    angle, pitch = rng.uniform(0, np.pi / 2), rng.uniform(9, 18)
    u, v = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    column, row = np.floor(u / pitch).astype(int), np.floor(v / pitch).astype(int)
    levels = rng.uniform(0.2, 0.7, (64, 64)).astype(np.float32)
    image = levels[column % 64, row % 64]
    inside_u, inside_v = u - column * pitch, v - row * pitch
    image[(inside_u < 2.5) | (inside_v < 2.5)] = 0.08
    image[(inside_u >= 2.5) & (inside_u < 3.6) & (inside_v >= 2.5)] = 0.95
    points = rng.integers(0, size, (max(3, size // 10), 2))
    image[points[:, 0], points[:, 1]] = HIGHEST
    return image


def coast(rng: np.random.Generator, size: int) -> Image:
    """Dark sea against textured land along a fractal shore, with a few bright ships."""
    height = power_law_field(rng, size, 1.8)
    land = height > np.quantile(height, rng.uniform(0.35, 0.65))
    image = np.where(land, 0.35 + 0.5 * power_law_field(rng, size, 1.0), 0.07).astype(np.float32)
    for cy, cx in rng.integers(0, size, (12, 2)):
        if not land[cy, cx]:
            image[cy : cy + 2, cx : cx + rng.integers(2, 5)] = HIGHEST
    return image


FAMILIES: tuple[Family, ...] = (
    leaves, textured_leaves, fields, terrain, urban, coast,
)  # fmt: skip


def generate_scenes(
    count: int, size: int, seed: tuple[int, ...], families: Sequence[Family] = FAMILIES
) -> NDArray[np.uint8]:
    """Scenes (count, 1, size, size) of all families in turn, 8-bit amplitude; scene i depends on (seed, i) alone."""
    scenes = np.empty((count, 1, size, size), np.uint8)
    for i in range(count):
        scene = families[i % len(families)](np.random.default_rng((*seed, i)), size)
        scenes[i, 0] = np.rint(255.0 * np.clip(scene, LOWEST, HIGHEST))
    return scenes
