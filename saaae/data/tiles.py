"""Cutting images into tiles."""

import torch
from torch import Tensor


def cut_tiles(image: Tensor, size: int) -> Tensor:
    """Non-overlapping tiles (N, C, size, size) of an image (C, H, W), row by row; a rest at the border is left out."""
    channels = image.shape[0]
    tiles = image.unfold(1, size, size).unfold(2, size, size)
    return tiles.permute(1, 2, 0, 3, 4).reshape(-1, channels, size, size)


def stack_tiles(tiles: list[Tensor], channels: int, size: int) -> Tensor:
    """One tensor (N, C, size, size) of the tiles of several images, also of none."""
    return torch.cat(tiles) if tiles else torch.empty(0, channels, size, size, dtype=torch.uint8)
