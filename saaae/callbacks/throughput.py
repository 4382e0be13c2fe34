"""Training speed, without validation."""

import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from saaae.callbacks.step_metrics import write_curves


class Throughput(Callback):
    """Counts training images of all processes and the seconds spent on them; validation inside an epoch is left out."""

    def __init__(self) -> None:
        self.images, self.seconds = 0, 0.0
        self._since: float | None = None

    @property
    def images_per_second(self) -> float:
        """Mean over the run so far; 0 before the first step."""
        return self.images / self.seconds if self.seconds else 0.0

    def _stop(self) -> None:
        if self._since is not None:
            self.seconds += time.perf_counter() - self._since
            self._since = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clock: a run resumed inside an epoch gets no epoch start."""
        self._since = time.perf_counter()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._since = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.images += len(batch.indices) * trainer.world_size

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stop()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restarts the clock for the rest of the epoch."""
        if trainer.state.fn == "fit":
            self._since = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stops the clock and logs the mean at once: Lightning would log it after the checkpoint."""
        self._stop()
        write_curves(trainer, {"train/images_per_second": self.images_per_second})
