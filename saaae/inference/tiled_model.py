"""A model on images of any size: in overlapping tiles, row by row, in memory that does not grow with the image."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from saaae.data.listing import known_classes
from saaae.data.sar import Scale
from saaae.errors import UserError
from saaae.inference.bright import DARKER, bright_places, brightness
from saaae.inference.image_files import ImageFile
from saaae.inference.image_output import Rows
from saaae.inference.model import TrainedModel
from saaae.inference.pixels import BAND, Pixels
from saaae.inference.tiling import Axis, find_margin, fixed_axis, local_axis, overlap
from saaae.inference.unfinished import FinishedTiles
from saaae.rng import IndexedRandom
from saaae.types import Batch

TILE = 768
"""Side of the tiles of a model that takes any size."""
BATCH_PIXELS = {"cpu": 2**18}
"""Pixels of a batch of tiles by device; 2**21 on others."""
UNBOUNDED = ("log_intensity", "relu", "none")
"""Activations whose images may exceed 1."""

TURNS = [(turns, mirrored) for turns in range(4) for mirrored in (False, True)]
"""The symmetries of a square: quarter turns, after a mirroring or none; the first leaves an image as it is."""

Progress = Callable[[int, int], None]
"""Called with the number of tiles that are done, and of all."""


@dataclass(frozen=True)
class Options:
    """How images are predicted.

    Attributes:
        scale: What radar pixels are; None is the run's own, or amplitude.
        full_scale: The stored value that becomes 1.0; None is the run's own, or a percentile of each image.
        tile: Largest side of a tile; None chooses one.
        batch_size: Tiles that are processed together; None chooses a number.
        latents: Whether latents are written.
        label: Class of all images by number or name, for a conditional model.
        flips: Whether the images of the eight mirrored and turned passes are averaged.
    """

    scale: Scale | None = None
    full_scale: float | None = None
    tile: int | None = None
    batch_size: int | None = None
    latents: bool = False
    label: int | str | None = None
    flips: bool = False


class Band(NamedTuple):
    """Finished rows.

    Attributes:
        stored: As the file has them (n, W, C).
        x: As the model takes them (c, n, W).
        x_hat: Restored (c, n, W).
        missing: Which pixels are missing (n, W).
        anomaly: Squared error, or the logit of a model that marks defects (n, W).
    """

    stored: np.ndarray
    x: np.ndarray
    x_hat: np.ndarray
    missing: np.ndarray
    anomaly: np.ndarray


@dataclass
class TiledModel:
    """A model with what tiles need to know of it.

    Args:
        model: The model.
        options: How images are predicted.

    Raises:
        UserError: If the options do not fit the model.
    """

    model: TrainedModel
    options: Options

    def __post_init__(self) -> None:
        network, data = self.model.network, self.model.config["data"]
        tile, stride = self.options.tile, self.model.stride
        self.is_radar = self.model.domain == "radar"
        self.clip = network.likelihood.activation != "log_intensity"
        classes, label = network.num_classes, self.options.label
        if classes and label is None:
            raise UserError(f"label: missing; expected a class, {known_classes(classes, self.model.class_names)}")
        self.label = None if label is None else self.model.class_number(label)
        if not self.is_radar and (self.options.scale or self.options.full_scale is not None):
            raise UserError(
                f"scale, full_scale: for radar images; this model was trained on {self.model.domain} images"
            )
        self.scale: Scale = self.options.scale or data.get("scale") or "amplitude"
        self.is_scale_of_run = self.options.full_scale is None and data.get("scale") == self.scale
        self.full_scale = data.get("full_scale") if self.is_scale_of_run else self.options.full_scale
        if self.full_scale is not None and self.full_scale <= 0 and self.scale != "decibel":
            raise UserError(f"full_scale={self.full_scale}: expected greater than 0 for scale={self.scale}")
        if tile and stride is None and tile != self.model.image_size:
            raise UserError(f"tile={tile}: the latent is a vector; expected tile={self.model.image_size}")
        if tile and stride and tile % stride:
            raise UserError(f"tile={tile}: expected a multiple of {stride}")

    def axes(self, height: int, width: int) -> tuple[Axis, Axis]:
        """The tiles of an image: a function of its size alone, so that the order of the images changes nothing."""
        stride, size = self.model.stride, self.model.image_size
        tile = self.options.tile or max(TILE, size)
        if stride is None:
            return fixed_axis(height, size, 1), fixed_axis(width, size, 1)
        margin = 0 if max(height, width) <= min(size, tile) else self.margin
        if margin is None:
            tile = self.options.tile or size
            return fixed_axis(height, tile, stride), fixed_axis(width, tile, stride)
        if max(height, width) > tile and tile <= overlap(margin, stride):
            raise UserError(
                f"tile={tile}: what surrounds a pixel of this model changes it up to {margin} pixels away; "
                f"expected more than {overlap(margin, stride)}"
            )
        return local_axis(height, tile, margin, stride), local_axis(width, tile, margin, stride)

    @cached_property
    def margin(self) -> int | None:
        """How far from a tile's border its output differs from that of the whole image; None: everywhere."""
        if not self.model.stride:
            return None
        return find_margin(lambda x: self.run(x)[0], self.model.channels, self.model.stride, self.model.device)

    def run(self, x: Tensor, used: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) and latents of images; radar images may exceed 1.

        A model that marks defects adds a channel, its anomaly map. With `flips` the result is the mean over the
        symmetries of a square, and the latents are those of the image as it is.

        Args:
            x: Images (B, C, H, W).
            used: Pixels (B, 1, H, W) whose result is used; None for all.
        """
        x_hat, z = self._run_once(x, used)
        if not self.options.flips:
            return x_hat, z
        for turn in TURNS[1:]:
            seen = None if used is None else _turned(used, *turn)
            x_hat = x_hat + _turned_back(self._run_once(_turned(x, *turn), seen)[0], *turn)
        return x_hat / len(TURNS), z

    @torch.no_grad()
    def _run_once(self, x: Tensor, used: Tensor | None) -> tuple[Tensor, Tensor]:
        network, indices = self.model.network, torch.arange(len(x), device=x.device)
        label = None if self.label is None else torch.full_like(indices, self.label)
        batch = network.prepare(Batch(x, x, indices, IndexedRandom(0, indices), label))
        z = network.encode(batch).mode
        likelihood = network.likelihood
        if network.marks:
            return torch.cat(network.marked(batch), 1), z
        raw = network.decoder_output(z, batch)
        if not self.is_radar or likelihood.activation not in UNBOUNDED:
            return likelihood.mean(raw), z
        x_hat = likelihood.output(raw)
        if likelihood.activation == "log_intensity":
            weight = brightness(x) if used is None else brightness(x) * used
            for number in weight.flatten(1).any(1).nonzero().flatten().tolist():
                for place, window in bright_places(weight[number, 0].cpu().numpy(), self.model.stride):
                    darker = torch.zeros_like(x[number])
                    seen = x[number : number + 1, :, *window] / DARKER
                    darker[..., *window] = DARKER * self._run_once(seen, None)[0][0]
                    inside = (number, slice(None), *place)
                    x_hat[inside] = torch.lerp(x_hat[inside], darker[..., *place], weight[inside])
                    weight[inside] = 0.0  # places may overlap
        return x_hat, z

    def bands(
        self,
        image: ImageFile,
        pixels: Pixels,
        progress: Progress,
        finished: FinishedTiles,
        latents: Rows | None = None,
    ) -> Iterator[Band]:
        """Restores an image from top to bottom, one row of tiles after the other.

        Args:
            image: The image.
            pixels: Its scale.
            progress: Called after each batch of tiles.
            finished: Rows of tiles that are done already, and those that follow.
            latents: Where the latents of all tiles are written; None for nowhere.
        """
        rows, columns = self.axes(image.height, image.width)
        across = len(columns.starts)
        channels = self.model.channels
        reader = _Reader(image, pixels, channels)
        total = np.zeros((channels + self.model.network.marks, rows.size, columns.length), np.float32)
        for number, top in enumerate(rows.starts):
            reader.advance(top, min(top + rows.size, image.height))
            if (arrays := finished.load(number)) is None:
                z = []
                for first, latent in self._add_tiles(total, reader, rows.weights[number], columns):
                    z.append(latent)
                    progress(number * across + first + len(latent), len(rows.starts) * across)
                arrays = {"total": total} | ({} if latents is None else {"latents": np.concatenate(z)})
                finished.save(number, arrays)
            total = arrays["total"]
            if latents is not None:
                latents.write(arrays["latents"])
            following = rows.starts[number + 1] if number + 1 < len(rows.starts) else image.height
            ready = following - top
            x, done = reader.x[:, :ready], total[:, :ready, : image.width]
            anomaly = done[channels] if self.model.network.marks else ((done - x) ** 2).mean(0)
            yield Band(reader.stored[:ready], x, done[:channels], reader.missing[:ready], anomaly)
            kept = rows.size - ready
            total[:, : max(kept, 0)] = total[:, ready:].copy()
            total[:, max(kept, 0) :] = 0.0

    def _add_tiles(
        self, total: np.ndarray, reader: "_Reader", row_weights: np.ndarray, columns: Axis
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Adds the weighted images of a row of tiles to `total` (C, H, W); gives the latents of each batch of tiles."""
        height, length = total.shape[1:]
        extra = ((0, height - reader.x.shape[1]), (0, length - reader.x.shape[2]))
        x = np.pad(reader.x, ((0, 0), *extra), mode="edge")
        missing = np.pad(reader.missing, extra, mode="edge")
        device = self.model.device
        size = self.options.batch_size or max(1, BATCH_PIXELS.get(device.type, 2**21) // (height * columns.size))
        for first in range(0, len(columns.starts), size):
            places = [slice(left, left + columns.size) for left in columns.starts[first : first + size]]
            weights = [row_weights[:, None] * weight for weight in columns.weights[first : first + size]]
            tiles = np.stack([filled(x[..., place], missing[:, place]) for place in places])
            used = torch.from_numpy(np.stack(weights)[:, None] > 0).to(device)
            x_hat, z = self.run(torch.from_numpy(tiles).to(device), used)
            for place, weight, tile in zip(places, weights, x_hat.float().cpu().numpy(), strict=True):
                total[..., place] += weight * tile
            yield first, z.float().cpu().numpy()

    def latent_shape(self, height: int, width: int) -> tuple[int, ...]:
        """Shape of the latents of all tiles of an image."""
        rows, columns = self.axes(height, width)
        stride, latent = self.model.stride, self.model.network.decoder_shape
        count = len(rows.starts) * len(columns.starts)
        return (count, latent[0], rows.size // stride, columns.size // stride) if stride else (count, *latent)


class _Reader:
    """The rows of an image that a row of tiles needs, each read once."""

    def __init__(self, image: ImageFile, pixels: Pixels, channels: int) -> None:
        self.image, self.pixels, self.start, self.stop = image, pixels, 0, 0
        self.stored = np.empty((0, image.width, image.channels), image.dtype)
        self.x, self.missing = np.empty((channels, 0, image.width), np.float32), np.empty((0, image.width), bool)

    def advance(self, start: int, stop: int) -> None:
        """Moves on to the rows [start, stop)."""
        gone = start - self.start
        stored, x, missing = [self.stored[gone:]], [self.x[:, gone:]], [self.missing[gone:]]
        for first in range(self.stop, stop, BAND):
            stored.append(self.image.rows(first, min(first + BAND, stop)))
            values, without = self.pixels.to_model(stored[-1])
            x.append(values)
            missing.append(without)
        self.stored, self.x, self.missing = np.concatenate(stored), np.concatenate(x, 1), np.concatenate(missing)
        self.start, self.stop = start, stop


def _turned(x: Tensor, turns: int, mirrored: bool) -> Tensor:
    """Images (..., H, W), mirrored and then turned."""
    return torch.rot90(x.flip(-1) if mirrored else x, turns, (-2, -1))


def _turned_back(x: Tensor, turns: int, mirrored: bool) -> Tensor:
    """The inverse of `_turned`."""
    x = torch.rot90(x, -turns, (-2, -1))
    return x.flip(-1) if mirrored else x


def filled(x: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """A tile (C, H, W) whose missing pixels (H, W) have the value of the nearest one that is there."""
    if not missing.any() or missing.all():
        return x
    place = ndimage.distance_transform_edt(missing, return_distances=False, return_indices=True)
    return x[:, place[0], place[1]]
