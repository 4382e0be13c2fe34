"""Six families of scenes that no training set of this project has, to judge despecklers: unlike those of
saaae/data/scenes.py in outlines, textures and levels. Those of saaae/data/varied_scenes.py are drawn in another
way, but some are of a similar kind: lattices (as orchards), stripes (dunes), thin curves (roads, braided_river), slopes
(polygons) and patches of grain (mosaic).

python benchmarks/unseen_scenes.py unseen.png draws two scenes of each family.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch

from saaae.data.scenes import HIGHEST, LOWEST


def grid(size):
    """Rows (size, 1) and columns (1, size) of an image."""
    axis = np.arange(size, dtype=np.float64)
    return axis[:, None], axis[None, :]


def waves(rng, size, count, shortest):
    """A smooth field in [0, 1]: a sum of plane waves of at least `shortest` pixels a period."""
    y, x = grid(size)
    field = np.zeros((size, size))
    for _ in range(count):
        angle, frequency, phase = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 1) / shortest, rng.uniform(0, 2 * np.pi)
        field += np.cos(2 * np.pi * frequency * (np.cos(angle) * x + np.sin(angle) * y) + phase)
    return (field - field.min()) / np.ptp(field)


def polygons(rng, size):
    """Overlapping convex polygons, each with a gradient of its own."""
    y, x = grid(size)
    image = 0.2 + 0.5 * waves(rng, size, 3, size)
    for _ in range(28):
        cy, cx = rng.uniform(0, size, 2)
        radius = size * rng.uniform(0.04, 0.22)
        inside = np.ones((size, size), bool)
        for angle in np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 7))):
            inside &= np.cos(angle) * (x - cx) + np.sin(angle) * (y - cy) < radius * rng.uniform(0.5, 1)
        inside &= (abs(x - cx) < 2 * radius) & (abs(y - cy) < 2 * radius)
        low, high = rng.uniform(0.08, 0.95, 2).tolist()
        angle = rng.uniform(0, 2 * np.pi)
        across = 0.5 + 0.25 * (np.cos(angle) * (x - cx) + np.sin(angle) * (y - cy)) / radius
        image[inside] = (low + (high - low) * across.clip(0, 1))[inside]
    return image


def braided_river(rng, size):
    """A plain with dark channels that part and meet, bright bars between them, pale banks."""
    y, x = grid(size)
    image = 0.35 + 0.25 * waves(rng, size, 12, 20)
    axis = size * rng.uniform(0.35, 0.65)
    valley = np.abs(y - axis - 0.08 * size * np.sin(2 * np.pi * x / size / rng.uniform(0.7, 1.5)))
    image = np.where(valley < 0.27 * size, 0.62 + 0.2 * waves(rng, size, 20, 6), image)
    for _ in range(7):
        course = axis + rng.normal(0, 0.08 * size)
        for period in (1.1, 0.45, 0.21):
            course = course + rng.normal(0, 0.09 * size * period) * np.sin(
                2 * np.pi * (x / size / period + rng.uniform(0, 1))
            )
        width = size * rng.uniform(0.004, 0.022) * (1.2 + np.sin(2 * np.pi * (x / size * 2 + rng.uniform(0, 1))))
        image = np.where(np.abs(y - course) < width + 1.5, 0.8, image)
        image = np.where(np.abs(y - course) < width, 0.07, image)
    return image.T if rng.random() < 0.5 else image


def dunes(rng, size):
    """Ridges with a steep dark lee, whose direction and spacing vary over the scene."""
    y, x = grid(size)
    angle = rng.uniform(0, np.pi)
    spacing = rng.uniform(12, 26)
    along = np.cos(angle) * x + np.sin(angle) * y + 2.2 * spacing * waves(rng, size, 6, size / 3)
    phase = (along / spacing) % 1.0
    lee = rng.uniform(0.15, 0.3)
    profile = np.where(phase < 1 - lee, phase / (1 - lee), (1 - phase) / lee)
    return 0.12 + (0.25 + 0.55 * waves(rng, size, 4, size / 2)) * profile


def orchards(rng, size):
    """Lattices of round crowns in plots of different direction, and rings of them around ponds."""
    y, x = grid(size)
    side = size / 3
    plot_y, plot_x = np.floor(y / side).astype(int), np.floor(x / side).astype(int)
    image = np.full((size, size), 0.25)
    for row in range(3):
        for column in range(3):
            angle, pitch, crown = rng.uniform(0, np.pi / 2), rng.uniform(5, 11), rng.uniform(0.22, 0.38)
            ground, tree = rng.uniform(0.1, 0.4), rng.uniform(0.5, 0.95)
            cy, cx = (row + 0.5) * side, (column + 0.5) * side
            if rng.random() < 0.35:
                radius = np.hypot(y - cy, x - cx)
                u, v = radius / pitch, np.arctan2(y - cy, x - cx) * np.maximum(np.round(radius / pitch), 1)
                ground = np.where(radius < 1.5 * pitch, 0.05, ground)
            else:
                u = (np.cos(angle) * x + np.sin(angle) * y) / pitch
                v = (np.cos(angle) * y - np.sin(angle) * x) / pitch
            crowns = np.hypot(u - np.round(u), v - np.round(v)) < crown
            here = (plot_y == row) & (plot_x == column)
            image = np.where(here, np.where(crowns, tree, ground), image)
    return np.where((y % side < 2) | (x % side < 2), 0.6, image)


def mosaic(rng, size):
    """Slanted tiles of different level, each with a smooth texture of its own contrast and direction."""
    y, x = grid(size)
    sites = rng.uniform(0, size, (14, 2))
    shear = rng.uniform(-0.6, 0.6)
    distance = np.abs(y[..., None] - sites[:, 0]) + np.abs((x + shear * y)[..., None] - sites[:, 1])
    nearest = distance.argmin(-1)
    image = np.zeros((size, size))
    for site in range(len(sites)):
        texture = waves(rng, size, 10, rng.uniform(8, 40)) - 0.5
        image = np.where(nearest == site, rng.uniform(0.12, 0.85) * (1 + rng.uniform(0.1, 1.2) * texture), image)
    return image


def roads(rng, size):
    """Thin curved roads, bright and dark, over hills and a broad dark water with bridges."""
    y, x = grid(size)
    image = 0.25 + 0.4 * waves(rng, size, 9, size / 5)
    middle = rng.uniform(0.3, 0.7)
    water = size * (middle + 0.12 * np.sin(2 * np.pi * (x / size * rng.uniform(0.5, 1.5) + rng.random())))
    image = np.where(np.abs(y - water) < 0.06 * size, 0.05, image)
    for _ in range(9):
        level, half = rng.choice([0.06, 0.75, 0.95]), rng.choice([0.5, 0.8, 1.3])
        slope, bend, period = rng.uniform(-1, 1), rng.uniform(5, 25), rng.uniform(0.4, 1.5)
        centre = size * rng.uniform(-0.2, 1.2)
        turn = 2 * np.pi * (y / size / period + rng.random())
        course = centre + slope * (y - size / 2) + bend * np.sin(turn)
        steep = slope + 2 * np.pi * bend / size / period * np.cos(turn)
        image = np.where(np.abs(x - course) < half * np.hypot(1, steep), level, image)
    return image


FAMILIES = (polygons, braided_river, dunes, orchards, mosaic, roads)


def unseen_scenes(count, size, seed):
    """Scenes (count, 1, size, size) of all families in turn, float32 amplitudes in [LOWEST, HIGHEST]."""
    scenes = [FAMILIES[i % len(FAMILIES)](np.random.default_rng((seed, i)), size) for i in range(count)]
    return torch.from_numpy(np.stack(scenes)[:, None].clip(LOWEST, HIGHEST)).float()


def main(path):
    """Draws two scenes of each family side by side."""
    from torchvision.utils import save_image

    save_image(unseen_scenes(2 * len(FAMILIES), 256, 0), path, nrow=len(FAMILIES))


if __name__ == "__main__":
    main(sys.argv[1])
