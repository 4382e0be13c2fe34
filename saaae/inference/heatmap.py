"""Pictures of anomaly maps."""

from pathlib import Path

import numpy as np
from PIL import Image

from saaae.atomic import replacing

OPACITY = 0.7
"""Of the map over its image, where it is largest."""


def save_heatmaps(heat: np.ndarray, gray: np.ndarray, heatmap: Path, overlay: Path, largest: float) -> None:
    """Writes an anomaly map as PNG, and over its image.

    Args:
        heat: Map (H, W) from 0.
        gray: Image (H, W) in [0, 1].
        heatmap: File of the map.
        overlay: File of the map over the image.
        largest: Value of the map that is drawn brightest.
    """
    from matplotlib import colormaps

    share = heat / max(largest, np.finfo(np.float32).tiny)
    picture = colormaps["inferno"](share, bytes=True)[..., :3]
    strength = OPACITY * share[..., None]
    over = gray[..., None] * 255 * (1 - strength) + picture * strength
    for path, pixels in ((heatmap, picture), (overlay, over.clip(0, 255).astype(np.uint8))):
        with replacing(path) as file:
            Image.fromarray(pixels).save(file, "PNG")
