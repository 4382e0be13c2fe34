"""Training speed, without validation."""

import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from saaae.callbacks.step_metrics import write_curves


class Throughput(Callback):
    """Counts training images of all processes and the seconds of loading and stepping, without validation,
    pictures and checkpoints."""

    def __init__(self) -> None:
        self.images, self.seconds = 0, 0.0
        self._since: float | None = None

    @property
    def images_per_second(self) -> float:
        """Mean over the run so far; 0 before the first step."""
        return self.images / self.seconds if self.seconds else 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._since = time.perf_counter()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Starts the clock after a validation, and in a run resumed inside an epoch."""
        if self._since is None:
            self._since = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Adds a step and the loading of its batch."""
        assert self._since is not None
        self.images += len(batch.indices) * trainer.world_size
        now = time.perf_counter()
        self.seconds, self._since = self.seconds + now - self._since, now

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stops the clock: neither validation nor the pictures and checkpoints after it are training."""
        self._since = None

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stops the clock and logs the mean at once: Lightning would log it after the checkpoint."""
        self._since = None
        write_curves(trainer, {"train/images_per_second": self.images_per_second})
