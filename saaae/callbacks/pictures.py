"""Originals and reconstructions of the same fixed images, in TensorBoard and as a PNG."""

from pathlib import Path
from typing import TYPE_CHECKING, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from saaae.ranges import PositiveInt
from saaae.types import Batch, ImageModel, ImageSource, Split

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def picture_rows(model: ImageModel, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Rows of images (B, C, H, W) and rows of the model's maps (B, 1, h, w), both in [0, 1] by title, from z = mean.

    Args:
        model: The model, in evaluation mode.
        batch: The images on the model's device.
    """
    with torch.no_grad():
        posterior = model.encode(batch.input, batch.noise)
        x_hat = model.decode(posterior.mode)
        maps = model.maps(posterior)
        samples = model.sample(len(x_hat), batch.noise) if posterior.stochastic else None
    images = {} if batch.input is batch.target else {"input": batch.input}
    images |= {"original": batch.target, "reconstruction": x_hat, "absolute error": (x_hat - batch.target).abs()}
    if batch.clean is not None and batch.clean is not batch.target:
        images["clean reference"] = batch.clean
    if samples is not None:
        images["from the prior"] = samples
    return images, dict(maps)


def draw_rows(images: dict[str, Tensor], maps: dict[str, Tensor], title: str) -> "Figure":
    """A figure with one labelled row a title: images in gray or RGB, maps in colour."""
    from matplotlib.figure import Figure

    rows = [(name, row, "gray") for name, row in images.items()] + [
        (name, row, "viridis") for name, row in maps.items()
    ]
    count = len(rows[0][1])
    figure = Figure(figsize=(1.1 * count + 1.2, 1.1 * len(rows) + 0.5), layout="constrained")
    axes = figure.subplots(len(rows), count, squeeze=False)
    for line, (name, row, colours) in zip(axes, rows, strict=True):
        for axis, image in zip(line, row.float().cpu().numpy().transpose(0, 2, 3, 1), strict=True):
            axis.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, vmin=0, vmax=1, cmap=colours)
            axis.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    figure.suptitle(title, fontsize=10)
    return figure


def figure_of(model: ImageModel, data: ImageSource, split: Split, count: int, title: str) -> "Figure":
    """The figure of `count` fixed images, spread evenly over a split; leaves the model in the mode that it was in."""
    assert isinstance(model, L.LightningModule)
    size = data.num_images(split)
    indices = torch.linspace(0, size - 1, min(count, size)).long()
    training = model.training
    model.eval()
    images, maps = picture_rows(model, data.batch(split, indices, model.device))
    model.train(training)
    return draw_rows(images, maps, f"{title}\n{model.caveat}" if model.caveat else title)


def save_reconstructions(model: ImageModel, data: ImageSource, path: Path, title: str, count: int = 8) -> None:
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
        model, data = cast(ImageModel, pl_module), cast(ImageSource, trainer.datamodule)  # type: ignore[attr-defined]
        figure = figure_of(model, data, "val", self.count, f"epoch {epoch}, validation images, z = mean")
        for board in boards:
            board.experiment.add_figure("reconstructions", figure, trainer.global_step, close=False)
