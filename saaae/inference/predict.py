"""Prediction on one image file: the restored image and what belongs to it."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from saaae.inference.heatmap import save_heatmaps
from saaae.inference.image_files import ImageFile
from saaae.inference.image_output import without_nodata, writing
from saaae.inference.pixels import BAND, Pixels, RadarPixels, photo_pixels, radar_pixels
from saaae.inference.tiled_model import Band, Progress, TiledModel
from saaae.inference.unfinished import finished_tiles, key_of
from saaae.metrics.pixel_detection import smooth


class Result(NamedTuple):
    """What came of one image.

    Attributes:
        note: Size, scale and speed, in one line.
        score: Largest value of the map of anomaly, where there is one.
    """

    note: str
    score: float | None = None


class Predictor(TiledModel):
    """A model that is applied to files."""

    def predict(self, source: Path, name: Path, progress: Progress = lambda done, total: None) -> Result:
        """Restores an image file and writes what `outputs` lists.

        Args:
            source: The image.
            name: The restored image; the names of the other files begin with it.
            progress: Called after each batch of tiles.

        Raises:
            BrokenFileError: If the file cannot be used.
            UserError: If the options do not fit it.
            OSError: If the folder cannot be written.
        """
        start, image = time.perf_counter(), ImageFile(source)
        pixels = self.pixels_of(image)
        out_channels = 1 if image.channels == 3 and self.model.channels == 1 and not self.is_radar else image.channels
        plane = (image.height, image.width)
        shape = plane if image.is_plane or out_channels == 1 else (*plane, out_channels)
        paths, residuals = self.outputs(name), []
        with ExitStack() as stack:
            finished = stack.enter_context(finished_tiles(image, paths, lambda: self._key(image, pixels)))
            restored = stack.enter_context(writing(paths["restored"], shape, image.dtype, image.tags))
            ratio, latents = None, None
            if "ratio" in paths:
                tags = without_nodata(image.tags)
                ratio = stack.enter_context(writing(paths["ratio"], plane, np.dtype(np.float32), tags))
            if "latents" in paths:
                latents = stack.enter_context(writing(paths["latents"], self.latent_shape(*plane), np.dtype("f4")))
            for band in self.bands(image, pixels, progress, finished, latents):
                for rows in _pieces(band):
                    stored = rows.stored if out_channels == image.channels else rows.stored[..., :out_channels]
                    restored.write(pixels.to_stored(rows.x_hat, stored, rows.missing))
                    if ratio is not None:
                        ratio.write(_ratio(rows))
                    if "heatmap" in paths:
                        lowest = rows.anomaly.min() if self.model.network.marks else 0.0
                        residuals.append((np.where(rows.missing, lowest, rows.anomaly), rows.x.mean(0)))
            score = self._write_heatmaps(residuals, paths) if "heatmap" in paths else None
        return Result(_summary(image, pixels, score, finished.reused, time.perf_counter() - start), score)

    def _key(self, image: ImageFile, pixels: Pixels) -> str:
        """What the tiles of an image depend on."""
        rows, columns = self.axes(image.height, image.width)
        scale = (pixels.scale, pixels.full_scale) if isinstance(pixels, RadarPixels) else None
        tiles = (rows.size, rows.starts, columns.size, columns.starts)
        others = {"label": self.options.label, "latents": self.options.latents, "flips": self.options.flips}
        return key_of(self.model, image, scale=scale, tiles=tiles, **others)

    def outputs(self, name: Path) -> dict[str, Path]:
        """What is written for an image, by what it is.

        Args:
            name: The restored image.
        """
        found = {"restored": name}
        if self.is_radar:
            ending = name.suffix if name.suffix.lower() == ".npy" else ".tif"
            found["ratio"] = name.with_name(f"{name.stem}_ratio{ending}")
        if self.finds_defects:
            found |= {kind: name.with_name(f"{name.stem}_{kind}.png") for kind in ("heatmap", "overlay")}
        if self.options.latents:
            found["latents"] = name.with_name(f"{name.stem}_latents.npy")
        return found

    @property
    def finds_defects(self) -> bool:
        """Whether images get a map of anomaly and a score."""
        return self.model.domain == "fabric" or self.model.network.marks

    def _write_heatmaps(self, anomalies: list[tuple[np.ndarray, np.ndarray]], paths: dict[str, Path]) -> float:
        """Draws the smoothed map of anomaly; the score of the image is its maximum.

        Args:
            anomalies: Map and gray image (rows, W) of each piece of the image, from above.
            paths: Names of the files by their kind.
        """
        values, gray = (np.concatenate(parts) for parts in zip(*anomalies, strict=True))
        heat = smooth(torch.from_numpy(values)[None, None], self.model.sigma)[0, 0]
        score = float(heat.max())
        if self.model.network.marks:  # probabilities, of which 1 is the brightest in each image
            save_heatmaps(heat.sigmoid().numpy(), gray, paths["heatmap"], paths["overlay"], 1.0)
        else:
            save_heatmaps(heat.numpy(), gray, paths["heatmap"], paths["overlay"], score)
        return score

    def pixels_of(self, image: ImageFile) -> Pixels:
        """Conversion between the stored values of an image and those of the model."""
        if self.is_radar:
            return radar_pixels(image, self.scale, self._full_scale_of(image), self.clip)
        return photo_pixels(image, self.model.channels)

    def _full_scale_of(self, image: ImageFile) -> float | None:
        is_integer = image.dtype in (np.uint8, np.uint16) and self.scale != "decibel"
        if self.is_scale_of_run and self.full_scale is None and is_integer:
            return float(np.iinfo(image.dtype).max)  # as data=sar has it
        return self.full_scale


def _pieces(band: Band) -> Iterator[Band]:
    """A band in pieces of a few rows: their conversions need several times their memory."""
    for first in range(0, len(band.stored), BAND):
        part = slice(first, first + BAND)
        yield Band(band.stored[part], band.x[:, part], band.x_hat[:, part], band.missing[part], band.anomaly[part])


def _ratio(band: Band) -> np.ndarray:
    """Intensity as observed over intensity restored; NaN where it is missing."""
    ratio = band.x[0] ** 2 / np.maximum(band.x_hat[0] ** 2, np.finfo(np.float32).tiny)
    return np.where(band.missing, np.float32(np.nan), ratio)


def _summary(image: ImageFile, pixels: Pixels, score: float | None, reused: int, seconds: float) -> str:
    """Size, type, scale, score and speed, as printed for each image."""
    scale = f", {pixels.scale}, full_scale={pixels.full_scale:.4g}" if isinstance(pixels, RadarPixels) else ""
    anomaly = "" if score is None else f", score {score:.4g}"
    speed = seconds / (image.height * image.width / 1e6)
    before = f", {reused} row{'s' * (reused > 1)} of tiles done before" if reused else ""
    return f"{image.width} x {image.height} {image.dtype}{scale}{anomaly}{before}, {speed:.2f} s per megapixel"
