"""Cutting images into tiles and putting tiles together again."""

import torch
from torch import Tensor
from torch.nn.functional import pad


def tile_starts(length: int, size: int, stride: int, cover: bool = False) -> list[int]:
    """Where tiles of `size` begin along an axis of `length` pixels, every `stride` of them.

    Args:
        length: Pixels of the axis.
        size: Side of a tile.
        stride: Pixels from one tile to the next; below `size` they overlap.
        cover: Whether a last tile flush with the end takes in the rest that no whole stride reaches.
    """
    starts = list(range(0, length - size + 1, stride))
    if cover and starts and starts[-1] + size < length:
        starts.append(length - size)
    return starts


def cut_tiles(image: Tensor, size: int, stride: int | None = None, cover: bool = False) -> tuple[Tensor, Tensor]:
    """Tiles of an image, row by row; an image smaller than a tile has none.

    Args:
        image: Image (C, H, W).
        size: Side of a tile.
        stride: Pixels between the starts of neighbours; None is `size`, without overlap.
        cover: Whether tiles flush with the lower and right border take in the rest.

    Returns:
        Tiles (N, C, size, size) and the row and column where each begins (N, 2), int64.
    """
    rows, columns = (tile_starts(length, size, stride or size, cover) for length in image.shape[-2:])
    starts = torch.tensor([(y, x) for y in rows for x in columns], dtype=torch.int64).view(-1, 2)
    tiles = [image[:, y : y + size, x : x + size] for y, x in starts.tolist()]
    return torch.stack(tiles) if tiles else image.new_empty(0, image.shape[0], size, size), starts


def pad_to_tile(image: Tensor, size: int) -> Tensor:
    """The image (C, H, W), continued by its border pixels to the right and below until a tile fits."""
    height, width = image.shape[-2:]
    extra = (0, max(0, size - width), 0, max(0, size - height))
    return pad(image[None].float(), extra, mode="replicate")[0].to(image.dtype) if any(extra) else image


def stitch_tiles(tiles: Tensor, starts: Tensor, height: int, width: int) -> Tensor:
    """The image that tiles were cut from: overlapping tiles are blended, weighted by the distance from their border.

    `stitch_tiles(*cut_tiles(pad_to_tile(x, size), size, stride, cover=True), H, W)` is x again, whatever its size.

    Args:
        tiles: Tiles (N, C, size, size).
        starts: Row and column where each begins (N, 2).
        height: Height H of the image; what the tiles hold beyond it is cut off.
        width: Width W of the image.

    Returns:
        Image (C, H, W), float32; 0 where no tile lies.
    """
    size = tiles.shape[-1]
    ramp = torch.minimum(torch.arange(size) + 1, size - torch.arange(size)).float().to(tiles.device)
    weight = ramp[:, None] * ramp[None, :]
    full = (max(height, int(starts[:, 0].max()) + size), max(width, int(starts[:, 1].max()) + size))
    total = torch.zeros(tiles.shape[1], *full, device=tiles.device)
    weights = torch.zeros(full, device=tiles.device)
    for tile, (y, x) in zip(tiles, starts.tolist(), strict=True):
        total[:, y : y + size, x : x + size] += weight * tile
        weights[y : y + size, x : x + size] += weight
    return (total / weights.clamp_min(1.0))[:, :height, :width]
