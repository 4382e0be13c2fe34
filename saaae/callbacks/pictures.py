"""Pictures of a run in TensorBoard and as PNG files, always of the same few images, drawn on rank 0."""

from pathlib import Path
from typing import cast

import lightning as L
from lightning.pytorch.callbacks import Callback

from saaae.data.datamodule import ImageDataModule, spread
from saaae.errors import warn_on_failure
from saaae.models.autoencoder import ImageAutoencoder, evaluating
from saaae.ranges import PositiveInt
from saaae.visualization.figures import STRIP_IMAGES, EpochStrip, epoch_picture, show
from saaae.visualization.mosaic import mosaic, save_picture
from saaae.visualization.panels import TITLES, input_rows

FOLDER = "pictures"
"""Where pictures are in a run folder."""


class ReconstructionPictures(Callback):
    """Draws model inputs at the start, validation images after chosen epochs, and a strip of these at the end.

    Args:
        every: Epochs between pictures; None takes all of the first 15 and then eight at each doubling of their number,
            so that a long run has some dozens.
        epochs: When not empty, exactly the epochs (counted from 1) that get a picture.
        count: Number of images.
    """

    def __init__(self, *, every: PositiveInt | None, epochs: list[PositiveInt], count: PositiveInt) -> None:
        self.every, self.epochs, self.count = every, list(epochs), count

    def wants(self, epoch: int) -> bool:
        """Whether the epoch, counted from 1, gets a picture."""
        if self.epochs:
            return epoch in self.epochs
        if self.every is None:
            return epoch % 2 ** max(0, epoch.bit_length() - 4) == 0
        return (epoch - 1) % self.every == 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draws the model's inputs, once per run: here the step of a resumed run is known."""
        if not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir) / FOLDER
        self.strip = EpochStrip(folder / "epochs.npz")
        self.strip.resume(trainer.current_epoch)
        if trainer.global_step == 0:
            with warn_on_failure("picture of the data"):
                picture = mosaic(input_rows(self._data(trainer), self.count), TITLES["data"])
                save_picture(folder / "data.png", picture)
                show(trainer, "data", picture, 0)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        if trainer.is_global_zero and self.wants(epoch):
            with warn_on_failure(f"picture of epoch {epoch}"):
                self._draw(trainer, pl_module, epoch)

    def _draw(self, trainer: L.Trainer, pl_module: L.LightningModule, epoch: int) -> None:
        model, data = cast(ImageAutoencoder, pl_module.model), self._data(trainer)
        picture = epoch_picture(model, data, "val", self.count, f"epoch {epoch}, validation images, z = mean")
        show(trainer, "reconstructions", picture, trainer.global_step - 1)  # resuming keeps what came before
        with evaluating(model):
            batch = data.batch("val", spread(data, "val", min(self.count, STRIP_IMAGES)), pl_module.device)
            self.strip.add(epoch, model.decode(model.encode(batch).mode, batch), limit=not self.epochs)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero or not self.strip.epochs:
            return
        with warn_on_failure("strip of the epochs"):
            data = self._data(trainer)
            batch = data.batch("val", spread(data, "val", min(self.count, STRIP_IMAGES)))
            picture = self.strip.picture(batch.target, TITLES["epochs"])
            save_picture(self.strip.path.with_suffix(".png"), picture)
            show(trainer, "epochs", picture, trainer.global_step - 1)

    @staticmethod
    def _data(trainer: L.Trainer) -> ImageDataModule:
        return cast(ImageDataModule, trainer.datamodule)  # type: ignore[attr-defined]
