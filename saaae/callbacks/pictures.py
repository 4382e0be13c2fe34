"""Originals and reconstructions of the same fixed images, in TensorBoard and as a PNG."""

from pathlib import Path
from typing import TYPE_CHECKING

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from saaae.ranges import PositiveInt
from saaae.types import Batch, ImageModel

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def picture_rows(model: ImageModel, batch: Batch) -> dict[str, Tensor]:
    """Rows of images (B, C, H, W) in [0, 1] by title, from z = mean.

    Args:
        model: The model, in evaluation mode.
        batch: The images on the model's device.
    """
    with torch.no_grad():
        posterior = model.encode(batch.input, batch.noise)
        x_hat = model.decode(posterior.mode)
        maps = model.maps(posterior)
    rows = {} if batch.input is batch.target else {"input": batch.input}
    rows |= {"original": batch.target, "reconstruction": x_hat, "absolute error": (x_hat - batch.target).abs()}
    if batch.clean is not None and batch.clean is not batch.target:
        rows["clean reference"] = batch.clean
    return rows | dict(maps)


def draw_rows(rows: dict[str, Tensor], title: str) -> "Figure":
    """A figure with one labelled row of images a title; maps in colour, images in gray or RGB."""
    from matplotlib.figure import Figure

    count = len(next(iter(rows.values())))
    figure = Figure(figsize=(1.1 * count + 1.2, 1.1 * len(rows) + 0.4), layout="constrained")
    axes = figure.subplots(len(rows), count, squeeze=False)
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        for axis, image in zip(line, images.float().cpu().numpy(), strict=True):
            is_map = name in ("importance",)
            axis.imshow(
                image.transpose(1, 2, 0).squeeze(),
                vmin=0,
                vmax=1,
                cmap="viridis" if is_map else "gray",
                interpolation="nearest",
            )
            axis.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    figure.suptitle(title, fontsize=10)
    return figure


def fixed_images(trainer_data: "L.LightningDataModule", split: str, count: int) -> Tensor:
    """Indices of `count` images spread evenly over a split."""
    size = len(trainer_data.splits[split].pixels)  # type: ignore[attr-defined]
    return torch.linspace(0, size - 1, min(count, size)).long()


def figure_of(model: ImageModel, data: "L.LightningDataModule", split: str, count: int, title: str) -> "Figure":
    """The figure of fixed images of a split; leaves the model in the mode that it was in."""
    assert isinstance(model, L.LightningModule)
    batch = data.batch(split, fixed_images(data, split, count), model.device)  # type: ignore[attr-defined]
    training = model.training
    model.eval()
    rows = picture_rows(model, batch)
    model.train(training)
    return draw_rows(rows, title)


def save_reconstructions(
    model: ImageModel, data: "L.LightningDataModule", path: Path, title: str, count: int = 8
) -> None:
    """Writes the figure of test images as a PNG."""
    figure_of(model, data, "test", count, title).savefig(path, dpi=130)


class ReconstructionPictures(Callback):
    """Pictures of validation images in TensorBoard, after chosen epochs.

    Args:
        every: Epochs between pictures.
        epochs: When not empty, exactly the epochs (counted from 1) that get a picture.
        count: Number of images.
    """

    def __init__(self, *, every: PositiveInt, epochs: list[PositiveInt], count: PositiveInt) -> None:
        self.every, self.epochs, self.count = every, list(epochs), count

    def wants(self, epoch: int) -> bool:
        """Whether the epoch, counted from 1, gets a picture."""
        return epoch in self.epochs if self.epochs else (epoch - 1) % self.every == 0

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draws on rank 0."""
        epoch = trainer.current_epoch + 1
        boards = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        if not boards or not trainer.is_global_zero or not self.wants(epoch):
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        figure = figure_of(pl_module, data, "val", self.count, f"epoch {epoch}, validation images, z = mean")  # type: ignore[arg-type]
        for board in boards:
            board.experiment.add_figure("reconstructions", figure, trainer.global_step, close=False)
