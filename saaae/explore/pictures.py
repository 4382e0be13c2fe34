"""Pictures as the page takes them: PNG files, and `data:` addresses of them."""

import base64
import io

import numpy as np
from PIL import Image
from torch import Tensor

from saaae.visualization.mosaic import Row, pixels_of


def address(row: Row) -> str:
    """The first picture of a row as a `data:` address, a pixel for each value."""
    return addresses(row)[0]


def addresses(row: Row) -> list[str]:
    """All pictures of a row as `data:` addresses."""
    height, width = row.images.shape[-2:]
    return [f"data:image/png;base64,{base64.b64encode(png(each)).decode()}" for each in pixels_of(row, height, width)]


def png(pixels: np.ndarray) -> bytes:
    """A PNG file of pixels (H, W, 3), uint8."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG", compress_level=1)
    return file.getvalue()


def sheet(images: Tensor, columns: int = 16) -> bytes:
    """A PNG file of images (N, C, h, w) in [0, 1], row by row."""
    pixels = list(pixels_of(Row("", images), *images.shape[-2:]))
    pixels = [*pixels, *[np.zeros_like(pixels[0])] * (-len(pixels) % columns)]
    rows = [np.concatenate(pixels[first : first + columns], 1) for first in range(0, len(pixels), columns)]
    return png(np.concatenate(rows))
