"""How maps of anomaly become scores of tiles and strips: smoothing, and standardisation by normal training tiles."""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from saaae.metrics.pixel_detection import smooth
from saaae.metrics.ranking import Array
from saaae.metrics.tile_detection import FabricCalibration, PositionCalibration

FINE_SIGMA = 2.0
"""Smoothing in pixels of the maps that are standardised by position."""


class Scoring(Protocol):
    """Scores of tiles and strips, once `learn` has seen all training tiles.

    Attributes:
        sigma: Smoothing of the maps in pixels.
    """

    sigma: float

    def learn(self, maps: Tensor, fabrics: Tensor, left: Tensor) -> None:
        """Takes in smoothed maps (N, 1, H, W) of normal tiles of fabrics (N,), which begin at columns (N,)."""
        ...

    def tiles(self, maps: Tensor, fabrics: Tensor, left: Tensor) -> Array:
        """Scores (N,) of tiles, as in `learn`."""
        ...

    def strip(self, strip_map: Tensor, fabric: int) -> Tensor:
        """The standardised map (H, W) of a strip of a fabric, from its smoothed map on the CPU."""
        ...


class ByFabric:
    """A tile scores as the maximum of its map; scores and pixels are standardised by their fabric.

    Args:
        sigma: Smoothing of the maps in pixels.
    """

    def __init__(self, sigma: float) -> None:
        self.sigma = sigma
        self._parts: list[list[Array]] = []
        self._fitted: tuple[FabricCalibration, FabricCalibration] | None = None

    def learn(self, maps: Tensor, fabrics: Tensor, left: Tensor) -> None:
        """Keeps four numbers of each tile: its score, its fabric, and the mean and mean square of its map."""
        values = maps.flatten(1).double()
        numbers = (values.amax(1), fabrics, values.mean(1), (values**2).mean(1))
        self._parts.append([number.cpu().numpy() for number in numbers])

    def _calibrations(self) -> tuple[FabricCalibration, FabricCalibration]:
        if self._fitted is None:
            score, fabric, mean, square = map(np.concatenate, zip(*self._parts, strict=True))
            self._fitted = FabricCalibration(score, fabric), FabricCalibration(mean, fabric, square)
        return self._fitted

    def tiles(self, maps: Tensor, fabrics: Tensor, left: Tensor) -> Array:
        return self._calibrations()[0].z_scores(maps.flatten(1).amax(1).cpu().numpy(), fabrics.cpu().numpy())

    def strip(self, strip_map: Tensor, fabric: int) -> Tensor:
        mean, std = self._calibrations()[1].moments(fabric)
        return (strip_map - mean) / std


class ByPosition:
    """Pixels are standardised by their fabric and position along the strip; a tile scores as their maximum.

    The selvage at the left edge of a strip is as little like the fabric as a defect is: pixels are compared with those
    of other strips of the fabric at the same distance from its edge.

    Args:
        width: Columns that share a mean and a spread.
        sigma: Smoothing of the maps in pixels.
    """

    def __init__(self, width: int, sigma: float = FINE_SIGMA) -> None:
        self.width, self.sigma = width, sigma
        self._parts: list[list[Array]] = []
        self._fitted: PositionCalibration | None = None

    def learn(self, maps: Tensor, fabrics: Tensor, left: Tensor) -> None:
        """Keeps the mean and mean square of each column of each tile."""
        values = maps[:, 0].double()
        numbers = (values.mean(1), (values**2).mean(1), fabrics, left)
        self._parts.append([number.cpu().numpy() for number in numbers])

    def _calibration(self) -> PositionCalibration:
        if self._fitted is None:
            means, squares, fabrics, left = map(np.concatenate, zip(*self._parts, strict=True))
            self._fitted = PositionCalibration(means, squares, fabrics, left, self.width)
        return self._fitted

    def standardised(self, maps: Tensor, fabrics: Tensor, left: Tensor) -> Tensor:
        """Maps (N, 1, H, W) of tiles in standard deviations above the mean of their positions."""
        places = zip(fabrics.tolist(), left.tolist(), strict=True)
        rows = [self._calibration().moments(fabric, start, maps.shape[-1]) for fabric, start in places]
        mean, std = (torch.from_numpy(np.stack(part)).to(maps)[:, None, None] for part in zip(*rows, strict=True))
        return (maps - mean) / std

    def tiles(self, maps: Tensor, fabrics: Tensor, left: Tensor) -> Array:
        return self.standardised(maps, fabrics, left).flatten(1).amax(1).cpu().numpy().astype(np.float64)

    def strip(self, strip_map: Tensor, fabric: int) -> Tensor:
        mean, std = (
            torch.from_numpy(part).to(strip_map) for part in self._calibration().moments(fabric, 0, strip_map.shape[-1])
        )
        return (strip_map - mean) / std


def smoothed(maps: Tensor, scorings: list[Scoring]) -> list[Tensor]:
    """Maps (N, 1, H, W) as each scoring takes them."""
    return [smooth(maps, scoring.sigma) for scoring in scorings]
