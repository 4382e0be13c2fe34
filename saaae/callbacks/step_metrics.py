"""The curves of training."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback


def write_curves(trainer: L.Trainer, values: dict[str, float]) -> None:
    """Logs the numbers of the last step at once."""
    for logger in trainer.loggers:
        logger.log_metrics(values | {"epoch": trainer.current_epoch}, step=trainer.global_step - 1)


class StepMetrics(Callback):
    """Logs the values that a training step returns, every `trainer.log_every_n_steps` optimizer steps.

    At once: Lightning writes what a module logs after the callbacks, so a checkpoint of that step would precede it
    and a run that ends there would lose a point.
    """

    def __init__(self, interval: int) -> None:
        self.interval, self._step = interval, 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Logs every `interval` optimizer steps."""
        stepped, self._step = trainer.global_step != self._step, trainer.global_step
        if not stepped or self._step % self.interval:
            return
        values = torch.stack([value.detach().float().to(pl_module.device) for value in outputs.values()])
        if trainer.world_size > 1:  # each process has its share of the batch
            values = trainer.strategy.reduce(values, reduce_op="mean")
        numbers = {f"train/{name}": value for name, value in zip(outputs, values.tolist(), strict=True)}
        numbers["train/loss"] *= trainer.accumulate_grad_batches  # Lightning has given each batch its share
        write_curves(trainer, numbers)
