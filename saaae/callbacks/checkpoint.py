"""best.ckpt and last.ckpt: when they are written, and how the previous file survives a failed write."""

import math
import os
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import TensorBoardLogger

from saaae.atomic import replacing
from saaae.errors import RunFailedError
from saaae.metrics.per_image import of_validation
from saaae.signals import Interruption


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes by `replacing`: a kill or a full disk leaves the previous checkpoint as it was.

    Lightning's own writer goes through the temporary folder, which on another filesystem means a copy over the old
    file, and ignores missing write permission.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes `checkpoint` to the local file `path`.

        Raises:
            RunFailedError: If it cannot be written.
        """
        target = Path(path)
        try:
            with replacing(target) as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:  # torch raises RuntimeError where its zip archive cannot grow
            text = str(error).partition("\n")[0]
            full = "unexpected pos" in text or "PytorchStreamWriter" in text
            reason = "the disk is full, or the file may not grow" if full else text
            reason = (isinstance(error, OSError) and error.strerror) or reason
            kept = "; the checkpoint before it is intact" if target.is_file() else ""
            raise RunFailedError(f"{target}: not written ({reason}){kept}") from error


def keep_as(path: Path, older: Path) -> None:
    """Keeps the file at `path` under the name `older` as well, so that an intact one exists at any time."""
    if not path.is_file():
        return
    partial = older.with_name(f".{older.name}.part")
    partial.unlink(missing_ok=True)
    try:
        os.link(path, partial)
    except OSError:  # no hard links on this filesystem
        os.replace(path, older)
        return
    os.replace(partial, older)
    partial.unlink(missing_ok=True)  # renaming one name of a file to another of the same file leaves both


class BestCheckpoint(Checkpoint):
    """Keeps the weights with the best validation score.

    The score is stored in the file itself: a resumed or moved run continues from what is on disk.

    Args:
        path: The file.
        monitor: Logged metric that decides.
        mode: Whether it is maximised (`max`) or minimised (`min`).
        validation: Validation metrics of the file that is there already; empty if there is none.
    """

    def __init__(self, path: Path, monitor: str, mode: str, validation: dict[str, float]) -> None:
        self.path, self.monitor, self.sign = path, monitor, 1.0 if mode == "max" else -1.0
        self.validation = validation

    @property
    def score(self) -> float | None:
        """Monitored metric of the file; None before there is one."""
        return self.validation.get(self.monitor)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves a better score; NaN is never better."""
        if trainer.sanity_checking or trainer.state.fn != "fit" or self.monitor not in trainer.callback_metrics:
            return
        score = float(trainer.callback_metrics[self.monitor])
        best = -math.inf if self.score is None else self.sign * self.score
        if self.sign * score > best:
            self.validation = of_validation(trainer.callback_metrics)
            trainer.save_checkpoint(self.path, weights_only=True)


AGREE_EVERY = 8
"""Optimizer steps after which several processes exchange whether one of them got a signal."""


class LastCheckpoint(Checkpoint):
    """Keeps one checkpoint of everything, from which a run resumes exactly, and the one before it.

    It is written after each epoch, after every so many optimizer steps or minutes inside one, and where a signal,
    `max_steps` or `max_time` ends an epoch early: Lightning's own would mark that epoch as finished, and a resumed run
    would skip the rest of it.

    Args:
        path: The file.
        previous: The one before it.
        every_n_steps: Optimizer steps between checkpoints inside an epoch; None for none.
        every_n_minutes: Minutes between checkpoints inside an epoch; None for none.
        interruption: Tells whether a signal wants the run to stop.
    """

    def __init__(
        self,
        path: Path,
        previous: Path,
        every_n_steps: int | None,
        every_n_minutes: float | None,
        interruption: Interruption,
    ) -> None:
        self.path, self.previous, self.interruption = path, previous, interruption
        self.every_n_steps, self.every_n_minutes = every_n_steps, every_n_minutes
        self._step, self._saved = 0, 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Replaces Lightning's signal handlers, which are in place by now, and notes the first step."""
        self._step, self._saved = trainer.global_step, time.monotonic()
        self.interruption.install()
        self.interruption.in_training = True

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves inside an epoch, never between the batches of one accumulated step."""
        stepped, self._step = trainer.global_step != self._step, trainer.global_step
        if not stepped or self._epoch_is_complete(trainer):
            return
        saves = self._step == trainer.max_steps or trainer.should_stop or self._is_due(trainer)
        if saves or trainer.world_size == 1 or self._step % AGREE_EVERY == 0:
            self._agree(trainer)
        if saves or self.interruption.agreed:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves a finished epoch, after its validation."""
        if self._epoch_is_complete(trainer):
            self._agree(trainer)
            self._save(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """From here on a signal ends the run at once, since everything is saved; one from the last step does so now."""
        self._agree(trainer)
        self.interruption.in_training = False
        self.interruption.leave()

    def _is_due(self, trainer: L.Trainer) -> bool:
        if self.every_n_steps is not None and self._step % self.every_n_steps == 0:
            return True
        if self.every_n_minutes is None:
            return False
        return bool(trainer.strategy.broadcast(time.monotonic() - self._saved >= 60 * self.every_n_minutes))

    def _agree(self, trainer: L.Trainer) -> None:
        """All processes must save and stop at the same step, whichever of them got the signal."""
        signum = self.interruption.signum or 0
        if trainer.world_size > 1:
            seen = torch.tensor(signum, device=trainer.strategy.root_device)
            signum = int(trainer.strategy.reduce(seen, reduce_op="max"))
        self.interruption.agreed = signum or None

    def _save(self, trainer: L.Trainer) -> None:
        """Flushes the loggers first: a resumed run logs only what comes after the checkpoint."""
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.flush()
        if trainer.is_global_zero:
            keep_as(self.path, self.previous)
        trainer.save_checkpoint(self.path)
        self._saved = time.monotonic()
        self.interruption.leave()

    @staticmethod
    def _epoch_is_complete(trainer: L.Trainer) -> bool:
        return trainer.fit_loop.epoch_loop.batch_progress.current.ready >= trainer.num_training_batches
