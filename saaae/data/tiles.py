"""Cutting images into tiles."""

from torch import Tensor


def cut_tiles(image: Tensor, size: int) -> Tensor:
    """Non-overlapping tiles (N, C, size, size) of an image (C, H, W), row by row; a rest at the border is left out."""
    channels, height, width = image.shape
    if min(height, width) < size:
        return image.new_empty(0, channels, size, size)
    tiles = image.unfold(1, size, size).unfold(2, size, size)
    return tiles.permute(1, 2, 0, 3, 4).reshape(-1, channels, size, size)
