"""Ends the training of a trial that its study prunes."""

from collections.abc import Callable

import lightning as L
from lightning.pytorch.callbacks import Callback


class Pruning(Callback):
    """Asks the study after each validation whether to continue.

    Args:
        monitor: Logged metric that is reported.
        is_pruned: Given the metric and the epoch, counted from 0, whether to prune; None in further processes, which
            get the answer from the first.

    Attributes:
        why: Why and when the trial was pruned; empty otherwise.
    """

    def __init__(self, monitor: str, is_pruned: Callable[[float, int], bool] | None) -> None:
        self.monitor, self.is_pruned = monitor, is_pruned
        self.why = ""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Reports the metric, and stops the training if the study prunes the trial."""
        if trainer.sanity_checking or trainer.state.fn != "fit" or self.why:
            return
        if self.monitor not in trainer.callback_metrics:
            return
        score, epoch = float(trainer.callback_metrics[self.monitor]), trainer.current_epoch
        pruned = self.is_pruned is not None and self.is_pruned(score, epoch)
        if trainer.strategy.broadcast(pruned):
            self.why = f"after epoch {epoch + 1}: {self.monitor} {score:.4f}"
            trainer.should_stop = True
