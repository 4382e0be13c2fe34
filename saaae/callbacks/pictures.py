"""Originals and reconstructions of the same fixed images, in TensorBoard and as a PNG."""

from pathlib import Path
from typing import TYPE_CHECKING, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from saaae.noise import IndexedNoise
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
        posterior = model.encode(batch)
        x_hat = model.decode(posterior.mode, batch)
        maps = model.maps(batch, posterior)
        samples = model.sample(len(x_hat), batch.noise) if posterior.stochastic and model.generates else None
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
    count = max(len(row) for _, row, _ in rows)
    figure = Figure(figsize=(1.1 * count + 1.2, 1.1 * len(rows) + 0.5), layout="constrained")
    axes = figure.subplots(len(rows), count, squeeze=False)
    for line, (name, row, colours) in zip(axes, rows, strict=True):
        for axis, image in zip(line, row.float().cpu().numpy().transpose(0, 2, 3, 1), strict=False):
            axis.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, vmin=0, vmax=1, cmap=colours)
        for axis in line:
            axis.set(xticks=[], yticks=[])
        for axis in line[len(row) :]:
            axis.axis("off")
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    figure.suptitle(title, fontsize=10)
    return figure


def spread(data: ImageSource, split: Split, count: int) -> Tensor:
    """Indices of `count` fixed images, spread evenly over a split."""
    size = data.num_images(split)
    return torch.linspace(0, size - 1, min(count, size)).long()


def fed_rows(data: ImageSource, count: int) -> dict[str, Tensor]:
    """Rows (B, C, H, W) of what a model is fed: training images, and test images with their masks if there are any.

    Training images come with evaluation noise here, so that looking changes nothing.

    Args:
        data: The images.
        count: Images a row, at most.
    """
    batch = data.batch("train", spread(data, "train", count))
    rows = {"input": batch.input} | ({} if batch.target is batch.input else {"target": batch.target})
    if batch.clean is not None and batch.clean is not batch.target:
        rows["clean reference"] = batch.clean
    if data.batch("test", spread(data, "test", 1)).mask is None:
        return rows
    test = data.batch("test", spread(data, "test", 16 * count))
    assert test.mask is not None
    marked = (test.mask == 1).flatten(1).any(1).nonzero().flatten()[:count]
    if len(marked):
        rows |= {"test input": test.input[marked], "test mask": (test.mask[marked] == 1).float()}
    return rows


def figure_of(model: ImageModel, data: ImageSource, split: Split, count: int, title: str) -> "Figure":
    """The figure of `count` fixed images, spread evenly over a split; leaves the model in the mode that it was in."""
    assert isinstance(model, L.LightningModule)
    training = model.training
    model.eval()
    images, maps = picture_rows(model, data.batch(split, spread(data, split, count), model.device))
    model.train(training)
    return draw_rows(images, maps, f"{title}\n{model.caveat}" if model.caveat else title)


def save_reconstructions(model: ImageModel, data: ImageSource, path: Path, title: str, count: int = 8) -> None:
    """Writes the figure of test images as a PNG."""
    figure_of(model, data, "test", count, title).savefig(path, dpi=130)


def generation_grids(model: ImageModel, device: torch.device) -> dict[str, Tensor]:
    """What a model makes of its latent space, by title: rows (R, N, C, H, W) in [0, 1].

    Classes by style for a conditional model: a row a class, at most ten, and the same code down each column. The plane
    of two latent dimensions between the 3rd and 97th percentile of the prior, for the class in the middle if there
    are classes. Empty for other models.

    Args:
        model: The model, in evaluation mode.
        device: Where it is.
    """
    grids: dict[str, Tensor] = {}
    if not model.generates:
        return grids
    with torch.no_grad():
        if model.num_classes:
            classes, styles = min(10, model.num_classes), 10
            z = IndexedNoise(0, torch.arange(styles)).normal(torch.empty(styles, *model.latent_shape)).to(device)
            label = torch.arange(classes, device=device).repeat_interleave(styles)
            images = model.generate(z.repeat(classes, *[1] * (z.dim() - 1)), label)
            grids["a row a class, a column a style"] = images.unflatten(0, (classes, styles))
        if model.latent_shape == (2,):
            side = 15
            ticks = torch.special.ndtri(torch.linspace(0.03, 0.97, side))
            z = torch.cartesian_prod(-ticks, ticks).to(device)
            middle = (model.num_classes or 0) // 2
            same = torch.full((len(z),), middle, device=device) if model.num_classes else None
            title = "the latent plane" + (f" of class {middle}" if model.num_classes else "")
            grids[title] = model.generate(z, same).unflatten(0, (side, side))
    return grids


def save_generation(model: ImageModel, path: Path, title: str) -> None:
    """Writes what the model generates as a PNG, if there is anything."""
    from matplotlib.figure import Figure

    assert isinstance(model, L.LightningModule)
    model.eval()
    grids = generation_grids(model, model.device)
    if not grids:
        return
    figure = Figure(figsize=(5.5 * len(grids), 6), layout="constrained")
    for axis, (name, rows) in zip(figure.subplots(1, len(grids), squeeze=False)[0], grids.items(), strict=True):
        picture = torch.cat([torch.cat(list(row), 2) for row in rows.cpu()], 1)
        axis.imshow(picture.permute(1, 2, 0).squeeze(-1), cmap="gray", vmin=0, vmax=1)
        axis.set(title=name, xticks=[], yticks=[])
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=130)


class ReconstructionPictures(Callback):
    """Pictures in TensorBoard: what the model is fed, at the start, and validation images after chosen epochs.

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

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draws what the model is fed, once in the life of a run: the step of a resumed one is known here."""
        boards = self._boards(trainer)
        if boards and trainer.global_step == 0:
            data = cast(ImageSource, trainer.datamodule)  # type: ignore[attr-defined]
            self._show(boards, "data", draw_rows(fed_rows(data, self.count), {}, "what the model is fed"), 0)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draws on rank 0."""
        epoch, boards = trainer.current_epoch + 1, self._boards(trainer)
        if not boards or not self.wants(epoch):
            return
        model, data = cast(ImageModel, pl_module), cast(ImageSource, trainer.datamodule)  # type: ignore[attr-defined]
        figure = figure_of(model, data, "val", self.count, f"epoch {epoch}, validation images, z = mean")
        self._show(boards, "reconstructions", figure, trainer.global_step - 1)  # resuming keeps what came before

    def _boards(self, trainer: L.Trainer) -> list[TensorBoardLogger]:
        """Where to draw: nowhere but on rank 0."""
        loggers = trainer.loggers if trainer.is_global_zero else []
        return [logger for logger in loggers if isinstance(logger, TensorBoardLogger)]

    def _show(self, boards: list[TensorBoardLogger], tag: str, figure: "Figure", step: int) -> None:
        for board in boards:
            board.experiment.add_figure(tag, figure, step, close=False)
