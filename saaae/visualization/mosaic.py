"""Rows of labelled images as one picture: fast enough for every epoch."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from saaae.atomic import replacing

if TYPE_CHECKING:
    from torch import Tensor

Picture = np.ndarray
"""Pixels (H, W, 3), uint8."""

CELL, GAP, TEXT = 72, 3, 13
"""Smallest side of a drawn image, space around it, and height of letters beside such an image, in pixels."""


class Row(NamedTuple):
    """Images side by side.

    Attributes:
        label: Text at the left; may have several lines.
        images: (N, C, H, W) in [0, 1] or uint8, gray or RGB; a map (N, 1, h, w) of any resolution is stretched.
        colours: Name of a matplotlib colour map for maps; `gray` shows the values themselves.
    """

    label: str
    images: "Tensor | np.ndarray"
    colours: str = "gray"


def pixels_of(row: Row, height: int, width: int) -> np.ndarray:
    """Pixels (N, height, width, 3), uint8, of the images of a row, stretched without smoothing."""
    images = row.images if isinstance(row.images, np.ndarray) else row.images.detach().float().cpu().numpy()
    if images.dtype != np.uint8:
        images = (images.clip(0, 1) * 255 + 0.5).astype(np.uint8)
    rows, columns = (np.arange(side) * of // side for side, of in ((height, images.shape[2]), (width, images.shape[3])))
    images = images[:, :, rows][..., columns].transpose(0, 2, 3, 1)
    if row.colours == "gray":
        return np.broadcast_to(images, (*images.shape[:3], 3))
    from matplotlib import colormaps

    return colormaps[row.colours](images[..., 0], bytes=True)[..., :3]


def mosaic(rows: Sequence[Row], title: str, columns: Sequence[str] = ()) -> Picture:
    """Draws rows below each other, each with its label at the left.

    Args:
        rows: What to draw; the first one sets the proportions.
        title: Lines above all; empty for none.
        columns: A label above each column.
    """
    height, width = rows[0].images.shape[-2:]
    scale = max(1, round(CELL / min(height, width)))
    cell_height, cell_width = height * scale, width * scale
    text = max(TEXT, TEXT * min(cell_height, cell_width) // (2 * CELL))
    font = ImageFont.load_default(text)
    count = max(len(row.images) for row in rows)
    left = int(max(font.getlength(line) for row in rows for line in row.label.split("\n"))) + 3 * GAP
    lines = title.split("\n") if title else []
    top = (text + 6) * (len(lines) + bool(columns)) + 2 * GAP
    widest = int(max((font.getlength(line) for line in lines), default=0)) + 2 * GAP
    size = (max(left + count * (cell_width + GAP), widest) + GAP, top + len(rows) * (cell_height + GAP))
    canvas = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(canvas)
    for number, line in enumerate(lines):
        pen.text((2 * GAP, GAP + number * (text + 6)), line, "black", font)
    for number, label in enumerate(columns):
        middle = left + number * (cell_width + GAP) + cell_width // 2
        pen.text((middle, top - GAP), label, "black", font, anchor="mb")
    for number, row in enumerate(rows):
        y = top + number * (cell_height + GAP)
        pen.text((left - 2 * GAP, y + cell_height // 2), row.label, "black", font, anchor="rm", align="right")
        for column, pixels in enumerate(pixels_of(row, cell_height, cell_width)):
            canvas.paste(Image.fromarray(pixels), (left + column * (cell_width + GAP), y))
    return np.asarray(canvas)


def save_picture(path: Path, picture: Picture) -> None:
    """Writes a PNG file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        Image.fromarray(picture).save(file, "png")
