"""Trials that a study gives up on: their training ends after the validation that decided it."""

from collections.abc import Callable

import lightning as L
from lightning.pytorch.callbacks import Callback


class Pruning(Callback):
    """Asks after each validation whether to go on.

    Args:
        monitor: Logged metric that is reported.
        is_pruned: Given the metric and the epoch, counted from 0, whether to give up; None in further processes,
            which hear of it from the first.

    Attributes:
        why: What was given up on, and when; empty while nothing was.
    """

    def __init__(self, monitor: str, is_pruned: Callable[[float, int], bool] | None) -> None:
        self.monitor, self.is_pruned = monitor, is_pruned
        self.why = ""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Reports, and stops the training where the study says so."""
        if trainer.sanity_checking or trainer.state.fn != "fit" or self.why:
            return
        if self.monitor not in trainer.callback_metrics:
            return
        score, epoch = float(trainer.callback_metrics[self.monitor]), trainer.current_epoch
        pruned = self.is_pruned is not None and self.is_pruned(score, epoch)
        if trainer.strategy.broadcast(pruned):
            self.why = f"after epoch {epoch + 1}: {self.monitor} {score:.4f}"
            trainer.should_stop = True
