"""Pictures of anomaly maps."""

from pathlib import Path

import numpy as np
from PIL import Image

from saaae.atomic import replacing

COLOURS = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], np.float32)
"""From the least to the largest value: five colours of inferno."""


def colours(heat: np.ndarray) -> np.ndarray:
    """A map (H, W) as colours (H, W, 3), uint8, from 0 to its largest value."""
    place = heat / max(float(heat.max()), np.finfo(np.float32).tiny) * (len(COLOURS) - 1)
    lower = np.clip(place.astype(int), 0, len(COLOURS) - 2)
    share = (place - lower)[..., None]
    return np.rint(COLOURS[lower] * (1 - share) + COLOURS[lower + 1] * share).astype(np.uint8)


def save_heatmaps(heat: np.ndarray, gray: np.ndarray, heatmap: Path, overlay: Path) -> None:
    """Writes an anomaly map as PNG, and over its image.

    Args:
        heat: Map (H, W), at least 0.
        gray: Image (H, W) in [0, 1].
        heatmap: File of the map.
        overlay: File of the map over the image.
    """
    picture = colours(heat)
    strength = 0.7 * (heat / max(float(heat.max()), np.finfo(np.float32).tiny))[..., None]
    over = gray[..., None] * 255 * (1 - strength) + picture * strength
    for path, pixels in ((heatmap, picture), (overlay, over.clip(0, 255).astype(np.uint8))):
        with replacing(path) as file:
            Image.fromarray(pixels).save(file, "PNG")
