"""Defect detection: maps of reconstruction error, calibrated on normal tiles, against marked defects."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saaae.data.cached_files import CachedFiles, TileLocations
from saaae.data.datamodule import ImageDataModule
from saaae.data.images import UNKNOWN_MASK
from saaae.data.tiles import stitch_tiles
from saaae.metrics.pixel_detection import SIGMA, PixelDetection, smooth, squared_residual
from saaae.metrics.tile_detection import FabricCalibration, ScoredTiles, evaluate_detection, held_out_threshold
from saaae.models.autoencoder import ImageAutoencoder, LatentChoice, evaluating
from saaae.types import Batch, Split


def detection(model: ImageAutoencoder, data: ImageDataModule, latents: LatentChoice = "mean") -> dict[str, Any] | None:
    """Detection of defects by the squared error of reconstructions, see `detect`; None for data other than fabric."""
    if data.domain != "fabric" or not isinstance(data, CachedFiles):
        return None
    with evaluating(model):
        return detect(
            lambda batch: squared_residual(model.reconstruct(batch, latents), batch.target), data, device=model.device
        )


def detection_scores(found: dict[str, Any]) -> dict[str, float]:
    """The numbers that stand for a detection among the test metrics; those that are not known are left out."""
    scores = {
        "tile_auroc": found["tile"]["auroc"],
        "tile_ap": found["tile"]["average_precision"],
        "image_auroc": found["image"]["auroc"],
        **{name: found["pixel"][name] for name in ("pixel_auroc", "pixel_ap", "aupro_30", "aupro_05")},
        "recall": found["threshold"]["recall"],
        "false_alarm_rate": found["threshold"]["false_alarm_rate"],
    }
    return {name: value for name, value in scores.items() if math.isfinite(value)}


MapsOf = Callable[[Batch], Tensor]
"""Maps of anomaly (B, 1, H, W) of a batch, higher where the model is surprised; before any smoothing."""


class NormalTiles(NamedTuple):
    """Statistics of the maps of normal tiles.

    Attributes:
        score: Largest value of each map (N,).
        fabric: Code of each tile's fabric (N,).
        mean: Mean of each map (N,).
        square: Mean of its squares (N,).
    """

    score: NDArray[Any]
    fabric: NDArray[Any]
    mean: NDArray[Any]
    square: NDArray[Any]


class Detector(NamedTuple):
    """A model's smoothed maps of the tiles of a data module.

    Attributes:
        maps_of: The maps of a batch.
        data: The tiles.
        sigma: Smoothing of the maps in pixels.
        device: Where the model is.
    """

    maps_of: MapsOf
    data: CachedFiles
    sigma: float
    device: torch.device | str

    def batches(self, split: Split, indices: Tensor) -> Iterator[tuple[Batch, Tensor]]:
        """Tiles of a split with their maps (B, 1, H, W)."""
        for chosen in indices.split(self.data.batch_size):
            batch = self.data.batch(split, chosen, self.device)
            yield batch, smooth(self.maps_of(batch), self.sigma)

    def normal_tiles(self, split: Split) -> NormalTiles:
        """The tiles of a split without defects."""
        parts = []
        for batch, maps in self.batches(split, torch.arange(self.data.num_images(split))):
            values = maps.flatten(1).double()
            numbers = (values.amax(1), known(batch.fabric), values.mean(1), (values**2).mean(1))
            parts.append([number.cpu().numpy() for number in numbers])
        return NormalTiles(*map(np.concatenate, zip(*parts, strict=True)))

    def strip(self, places: TileLocations, strip: int) -> tuple[ScoredTiles, Tensor, Tensor]:
        """The test tiles of a strip, their scores not calibrated, its map (H, W) and its mask (H, W)."""
        mine = (places.file == strip).nonzero().flatten()
        batches, maps = zip(*self.batches("test", mine), strict=True)
        label, fabric, defect, mask = (
            torch.cat([known(getattr(batch, name)) for batch in batches]).cpu()
            for name in ("label", "fabric", "defect", "mask")
        )
        truth, together = stitch_masks(mask, places.start[mine]), torch.cat(maps)
        starts = places.start[mine] - places.start[mine].amin(0)
        whole = stitch_tiles(together, starts, *truth.shape)[0].cpu()
        scores = together.flatten(1).amax(1).cpu()
        fields = (scores, label, torch.full_like(label, strip), fabric, defect)
        return ScoredTiles(*(field.numpy() for field in fields)), whole, truth


def known(field: Tensor | None) -> Tensor:
    """A field of a batch that fabric tiles have."""
    assert field is not None
    return field


def stitch_masks(masks: Tensor, starts: Tensor) -> Tensor:
    """The part of a strip's mask (H, W) that mask tiles cover, unknown where none lies.

    Args:
        masks: Mask tiles (N, 1, size, size), uint8; they agree where they overlap.
        starts: Row and column where each begins (N, 2).
    """
    size, starts = masks.shape[-1], starts - starts.amin(0)
    height, width = (starts.amax(0) + size).tolist()
    strip = masks.new_full((height, width), UNKNOWN_MASK)
    for mask, (y, x) in zip(masks[:, 0], starts.tolist(), strict=True):
        strip[y : y + size, x : x + size] = mask
    return strip


@torch.inference_mode()
def detect(
    maps_of: MapsOf,
    data: CachedFiles,
    *,
    sigma: float = SIGMA,
    false_alarms: float = 0.01,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """How well maps of anomaly find defects in fabric.

    Runs in one process only. Maps are smoothed; a tile scores as the maximum of its map.
    Scores become z-scores by the scores of the training tiles of their fabric, and pixels by the pixels. The threshold
    comes from validation tiles, which are normal.

    Args:
        maps_of: Maps of a batch.
        data: Sound tiles to train and validate, labelled and masked ones to test, with codes of fabric and defect.
        sigma: Smoothing of the maps in pixels.
        false_alarms: Share of normal validation tiles that may alarm.
        device: Where `maps_of` computes.

    Returns:
        What `evaluate_detection` returns and, as `pixel`, what `PixelDetection` makes of whole strips.
    """
    places = data.places("test")
    detector, pixels, parts = Detector(maps_of, data, sigma, device), PixelDetection(sync_on_compute=False), []
    train, val = detector.normal_tiles("train"), detector.normal_tiles("val")
    of_tiles = FabricCalibration(train.score, train.fabric)
    of_pixels = FabricCalibration(train.mean, train.fabric, train.square)
    for strip in places.file.unique().tolist():
        tiles, strip_map, mask = detector.strip(places, strip)
        mean, std = of_pixels.moments(tiles.fabric[0])
        pixels.update((strip_map - mean) / std, mask)
        parts.append(tiles)
    tiles = ScoredTiles(*map(np.concatenate, zip(*parts, strict=True)))
    tiles = tiles._replace(score=of_tiles.z_scores(tiles.score, tiles.fabric))
    threshold = held_out_threshold(of_tiles.z_scores(val.score, val.fabric), false_alarms)
    return {**evaluate_detection(tiles, threshold), "pixel": pixels.compute()}
