"""Whole pictures of a model: final pictures, channel-gate bars, reconstructions over the epochs."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from saaae.atomic import replacing
from saaae.data.datamodule import ImageDataModule, spread
from saaae.models.autoencoder import ImageAutoencoder, evaluating
from saaae.types import Split
from saaae.visualization.mosaic import Picture, Row, mosaic
from saaae.visualization.panels import TITLES, epoch_rows, final_panels

STRIP_COLUMNS, STRIP_IMAGES = 12, 4
"""Epochs and images in the strip over epochs, at most."""


def show(trainer: L.Trainer, tag: str, picture: Picture, step: int) -> None:
    """Adds a picture to every TensorBoard of a run."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(tag, picture, step, dataformats="HWC")


def epoch_picture(model: ImageAutoencoder, data: ImageDataModule, split: Split, count: int, title: str) -> Picture:
    """The picture of `count` fixed images of a split; restores the mode of the model."""
    with evaluating(model):
        rows = epoch_rows(model, data, data.batch(split, spread(data, split, count), model.device))
    return mosaic(rows, f"{title}\n{model.loss_warning}" if model.loss_warning else title)


def gate_bars(gates: Mapping[str, Tensor], title: str) -> Picture:
    """Bars of the weights that layers give to their channels: the mean over images, and lines from least to greatest.

    Args:
        gates: Weights (B, C) in (0, 2), by layer; 1 leaves a channel unchanged.
        title: Title above the bars.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 0.6 + 1.5 * len(gates)), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for axis, (name, weights) in zip(figure.subplots(len(gates), 1, squeeze=False)[:, 0], gates.items(), strict=True):
        values, channels = weights.float().cpu(), range(weights.shape[1])
        axis.bar(channels, values.mean(0) - 1, bottom=1, width=0.8)
        axis.vlines(channels, values.amin(0), values.amax(0), color="black", linewidth=0.8)
        axis.axhline(1, color="gray", linewidth=0.8)
        axis.set(ylabel="weight", title=name)
    axis.set_xlabel("channel")
    figure.suptitle(title, fontsize=10)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def final_pictures(
    model: ImageAutoencoder, data: ImageDataModule, kl: Tensor | None, shown: str, count: int
) -> Iterator[tuple[str, Picture]]:
    """Name and image of each picture of a trained model on `count` fixed test images.

    Args:
        model: The model.
        data: Its data.
        kl: Mean KL of each latent value (D,) in nats; None where it is not a sum over them.
        shown: The run, for the titles.
        count: Number of images.
    """
    yield "reconstructions", epoch_picture(model, data, "test", count, f"{shown}: {TITLES['reconstructions']}")
    with evaluating(model):
        batch = data.batch("test", spread(data, "test", count), model.device)
        for name, rows in final_panels(model, data, batch, kl):
            yield name, mosaic(rows, f"{shown}: {TITLES[name]}")
        if gates := model.gates(batch):
            yield "gates", gate_bars(gates, f"{shown}: {TITLES['gates']}")


class EpochStrip:
    """Reconstructions of the same images after several epochs, side by side, in a file that a resumed run continues.

    Of more than STRIP_COLUMNS epochs the one that leaves the smallest gap is dropped, never the first or the newest.

    Args:
        path: The .npz file.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.epochs, self.images = path, [], np.zeros(0, np.uint8)  # type: ignore[var-annotated]

    def resume(self, epoch: int) -> None:
        """Restores the epochs kept so far, up to one; 0 starts empty."""
        if epoch and self.path.is_file():
            with np.load(self.path) as file:
                self.epochs, self.images = file["epochs"].tolist(), file["images"]
            self._keep([number <= epoch for number in self.epochs])

    def _keep(self, wanted: list[bool]) -> None:
        self.epochs = [epoch for epoch, keep in zip(self.epochs, wanted, strict=True) if keep]
        self.images = self.images[np.array(wanted, bool)]

    def add(self, epoch: int, images: Tensor, limit: bool) -> None:
        """Adds the images (N, C, H, W) of an epoch.

        Args:
            epoch: Counted from 1.
            images: Reconstructions in [0, 1].
            limit: Whether to limit the number of epochs.
        """
        pixels = (images.float().clamp(0, 1) * 255 + 0.5).byte().cpu().numpy()[None]
        if self.images.shape[1:] != pixels.shape[1:]:  # the first ones, or pictures.count is another than before
            self.epochs, self.images = [], pixels[:0]
        self.images = np.concatenate([self.images, pixels])
        self.epochs.append(epoch)
        if limit and len(self.epochs) > STRIP_COLUMNS:
            gaps = [after - before for before, after in zip(self.epochs, self.epochs[2:], strict=False)]
            dropped = self.epochs[1 + gaps.index(min(gaps))]
            self._keep([number != dropped for number in self.epochs])
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as file:
            np.savez(file, epochs=np.array(self.epochs), images=self.images)

    def picture(self, original: Tensor, title: str) -> Picture:
        """One row per image: its original, then one column per epoch."""
        after = torch.from_numpy(self.images).float() / 255
        rows = [Row("", torch.cat([image[None], after[:, number]])) for number, image in enumerate(original.cpu())]
        return mosaic(rows, title, ["original", *map(str, self.epochs)])
