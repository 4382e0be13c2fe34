"""Defect detection: maps of reconstruction error, calibrated on normal tiles, against marked defects."""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saaae.data.cached_files import CachedFiles, TileLocations
from saaae.data.datamodule import ImageDataModule
from saaae.data.images import UNKNOWN_MASK
from saaae.data.tiles import stitch_tiles
from saaae.evaluation.scoring import ByFabric, ByPosition, Scoring, smoothed
from saaae.metrics.pixel_detection import SIGMA, PixelDetection
from saaae.metrics.tile_detection import ScoredTiles, evaluate_detection, held_out_threshold
from saaae.models.autoencoder import ImageAutoencoder, LatentChoice, evaluating
from saaae.types import Batch, Split


def detection(model: ImageAutoencoder, data: ImageDataModule, latents: LatentChoice = "mean") -> dict[str, Any] | None:
    """Detection of defects by the anomaly maps of a model, see `detect`; None for data other than fabric."""
    if data.domain != "fabric" or not isinstance(data, CachedFiles):
        return None
    with evaluating(model):
        return detect(lambda batch: model.anomaly_map(batch, latents), data, device=model.device)


def detection_scores(found: dict[str, Any]) -> dict[str, float]:
    """The numbers that stand for a detection among the test metrics; those that are not known are left out."""
    position = found["by_position"]
    scores = {
        **_scores(found, ("pixel_auroc", *PIXEL_SCORES)),
        "recall": found["threshold"]["recall"],
        "false_alarm_rate": found["threshold"]["false_alarm_rate"],
        **_scores(position, PIXEL_SCORES, "_by_position"),
        **(_scores(position["reserved"], PIXEL_SCORES, "_reserved") if "tile" in position["reserved"] else {}),
    }
    return {name: value for name, value in scores.items() if math.isfinite(value)}


PIXEL_SCORES = ("pixel_ap", "aupro_30", "aupro_05")


def _scores(found: dict[str, Any], of_pixels: Sequence[str], suffix: str = "") -> dict[str, float]:
    """Metrics of tiles, strips and pixels, by their names with a suffix."""
    scores = {
        "tile_auroc": found["tile"]["auroc"],
        "tile_ap": found["tile"]["average_precision"],
        "image_auroc": found["image"]["auroc"],
        **{name: found["pixel"][name] for name in of_pixels},
    }
    return {f"{name}{suffix}": value for name, value in scores.items()}


MapsOf = Callable[[Batch], Tensor]
"""Maps of anomaly (B, 1, H, W) of a batch, higher where the model is surprised; before any smoothing."""


class MappedTiles(NamedTuple):
    """Tiles of a data module with their maps.

    Attributes:
        batch: The tiles.
        maps: Their maps (B, 1, H, W), not smoothed.
        left: Column at which each begins (B,), counted from the first tile of its strip.
    """

    batch: Batch
    maps: Tensor
    left: Tensor


class Detector(NamedTuple):
    """A model's maps of the tiles of a data module, and how they are scored.

    Attributes:
        maps_of: The maps of a batch.
        data: The tiles.
        scorings: How maps become scores.
        device: Where the model is.
    """

    maps_of: MapsOf
    data: CachedFiles
    scorings: list[Scoring]
    device: torch.device | str

    def tiles(self, split: Split, indices: Tensor) -> Iterator[MappedTiles]:
        """Chosen tiles of a split; without synthetic defects."""
        left = columns_in_strip(self.data.places(split))
        for chosen in indices.split(self.data.batch_size):
            batch = self.data.batch(split, chosen, self.device, without_defects=True)
            yield MappedTiles(batch, self.maps_of(batch), left[chosen])

    def all_tiles(self, split: Split) -> Iterator[MappedTiles]:
        return self.tiles(split, torch.arange(self.data.num_images(split)))

    def learn(self) -> None:
        """Shows the training tiles, which are normal, to all scorings."""
        for batch, maps, left in self.all_tiles("train"):
            for scoring, smooth_maps in zip(self.scorings, smoothed(maps, self.scorings), strict=True):
                scoring.learn(smooth_maps, known(batch.fabric), left)

    def scores(self, split: Split) -> list[NDArray[Any]]:
        """Scores (N,) of the tiles of a split, by each scoring."""
        parts = [
            [
                scoring.tiles(smooth_maps, known(batch.fabric), left)
                for scoring, smooth_maps in zip(self.scorings, smoothed(maps, self.scorings), strict=True)
            ]
            for batch, maps, left in self.all_tiles(split)
        ]
        return [np.concatenate(part) for part in zip(*parts, strict=True)]

    def strip(self, places: TileLocations, strip: int) -> tuple[list[ScoredTiles], list[Tensor], Tensor]:
        """The test tiles of a strip and its standardised map (H, W), by each scoring, and its mask (H, W)."""
        mine = (places.file == strip).nonzero().flatten()
        batches, parts, lefts = zip(*self.tiles("test", mine), strict=True)
        label, fabric, defect, mask = (
            torch.cat([known(getattr(batch, name)) for batch in batches]).cpu()
            for name in ("label", "fabric", "defect", "mask")
        )
        truth, left = stitch_masks(mask, places.start[mine]), torch.cat(lefts)
        starts = places.start[mine] - places.start[mine].amin(0)
        tiles, maps = [], []
        for scoring, together in zip(self.scorings, smoothed(torch.cat(parts), self.scorings), strict=True):
            scores = torch.from_numpy(scoring.tiles(together, fabric, left))
            fields = (scores, label, torch.full_like(label, strip), fabric, defect)
            tiles.append(ScoredTiles(*(field.numpy() for field in fields)))
            whole = stitch_tiles(together, starts, *truth.shape)[0].cpu()
            maps.append(scoring.strip(whole, int(fabric[0])))
        return tiles, maps, truth


def columns_in_strip(places: TileLocations) -> Tensor:
    """Column at which each tile begins (N,), counted from the first tile of its strip."""
    left = places.start[:, 1]
    first = torch.full((int(places.file.max()) + 1,), torch.iinfo(left.dtype).max, dtype=left.dtype)
    return left - first.scatter_reduce(0, places.file, left, "amin")[places.file]


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


PARTS = ("normal", "development", "reserved")
"""Kinds of test strips: defective ones are open to choices, or reserved."""
RESERVED = 3
"""One defective strip in so many is reserved."""


def is_reserved(name: str) -> bool:
    """Whether a strip is of the third whose defects no choice may be made on; a function of its file's name."""
    return int(hashlib.sha256(Path(name).stem.encode()).hexdigest(), 16) % RESERVED == 0


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

    Runs in one process only. Two ways of scoring, see `ByFabric` and `ByPosition`: maps are smoothed, and standardised
    by training tiles. The threshold comes from validation tiles. Both are normal and without synthetic defects.

    Args:
        maps_of: Maps of a batch.
        data: Sound tiles to train and validate, labelled and masked ones to test, with codes of fabric and defect.
        sigma: Smoothing in pixels of the maps that are standardised by fabric.
        false_alarms: Share of normal validation tiles that may alarm.
        device: Where `maps_of` computes.

    Returns:
        What `evaluate_detection` returns and, as `pixel`, what `PixelDetection` makes of whole strips; as `by_position`
        the same of the other way of scoring, there also `development` and `reserved`: `tile`, `image` and `pixel` of
        all normal strips and of the defective ones that are open to choices, or reserved.
    """
    places = data.places("test")
    scorings: list[Scoring] = [ByFabric(sigma), ByPosition(data.image_size // 2)]
    detector = Detector(maps_of, data, scorings, device)
    detector.learn()
    pixels = [{part: PixelDetection(sync_on_compute=False) for part in PARTS} for _ in scorings]
    tiles: list[list[ScoredTiles]] = [[] for _ in scorings]
    parts = []
    for strip in places.file.unique().tolist():
        mine, maps, mask = detector.strip(places, strip)
        parts.append(_part_of(data.file_names[strip], mine[0]))
        for number in range(len(scorings)):
            pixels[number][parts[-1]].update(maps[number], mask)
            tiles[number].append(mine[number])
    thresholds = [held_out_threshold(scores, false_alarms) for scores in detector.scores("val")]
    everything = [
        {**evaluate_detection(joined(mine), threshold), "pixel": PixelDetection.of_all(by_part.values()).compute()}
        for mine, threshold, by_part in zip(tiles, thresholds, pixels, strict=True)
    ]
    split = {part: _results(tiles[-1], parts, pixels[-1], thresholds[-1], part) for part in PARTS[1:]}
    return {**everything[0], "by_position": everything[1] | split}


def _part_of(name: str, tiles: ScoredTiles) -> str:
    return "normal" if not tiles.defect[0] else "reserved" if is_reserved(name) else "development"


def _results(
    tiles: list[ScoredTiles], parts: list[str], pixels: Mapping[str, PixelDetection], threshold: float, part: str
) -> dict[str, Any]:
    """Results of the normal strips and those of one part; empty if there are none."""
    chosen = [mine for mine, of in zip(tiles, parts, strict=True) if of in ("normal", part)]
    if not chosen:
        return {}
    found = evaluate_detection(joined(chosen), threshold)
    both = PixelDetection.of_all([pixels["normal"], pixels[part]])
    return {"tile": found["tile"], "image": found["image"], "pixel": both.compute()}


def joined(parts: list[ScoredTiles]) -> ScoredTiles:
    """The tiles of several strips."""
    return ScoredTiles(*map(np.concatenate, zip(*parts, strict=True)))
