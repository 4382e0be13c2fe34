"""When best.ckpt and last.ckpt are written, and how: never at the cost of the previous one."""

import math
import os
import tempfile
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, syncs, renames: a kill or a full disk leaves the previous checkpoint as it was.

    Lightning's own writer goes through the temporary folder, which on another filesystem means a copy over the old
    file, and passes over missing write permission without a word.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes `checkpoint` to the local file `path`.

        Raises:
            OSError: If the folder cannot be written.
        """
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(partial, 0o644)
            os.replace(partial, target)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class BestCheckpoint(Checkpoint):
    """Keeps the weights with the best validation score.

    The score stands in the file itself: a resumed or moved run goes on from what is really there.

    Args:
        path: The file.
        monitor: Logged metric that decides.
        mode: Whether it is maximised (`max`) or minimised (`min`).
        score: Score of the file that is there already; None if there is none.
    """

    def __init__(self, path: Path, monitor: str, mode: str, score: float | None) -> None:
        self.path, self.monitor, self.sign, self.score = path, monitor, 1.0 if mode == "max" else -1.0, score

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves what is better; a score that is not a number never is."""
        if trainer.sanity_checking or trainer.state.fn != "fit" or self.monitor not in trainer.callback_metrics:
            return
        score = float(trainer.callback_metrics[self.monitor])
        best = -math.inf if self.score is None else self.sign * self.score
        if self.sign * score > best:
            self.score = score
            trainer.save_checkpoint(self.path, weights_only=True)


class LastCheckpoint(Checkpoint):
    """Keeps one checkpoint of everything, from which a run resumes exactly.

    It is written after each epoch, after every so many optimizer steps inside one, and where `max_steps` or `max_time`
    ends an epoch early: Lightning's own would mark that epoch as finished, and a resumed run would skip the rest of it.

    Args:
        path: The file.
        every_n_steps: Optimizer steps between checkpoints inside an epoch; None for none.
    """

    def __init__(self, path: Path, every_n_steps: int | None) -> None:
        self.path, self.every_n_steps = path, every_n_steps
        self._step = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Where the run begins."""
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves inside an epoch, never between the batches of one accumulated step."""
        stepped, self._step = trainer.global_step != self._step, trainer.global_step
        due = self.every_n_steps is not None and self._step % self.every_n_steps == 0
        ends = self._step == trainer.max_steps or trainer.should_stop
        if stepped and (due or ends) and not self._epoch_is_complete(trainer):
            trainer.save_checkpoint(self.path)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves a finished epoch, after its validation."""
        if self._epoch_is_complete(trainer):
            trainer.save_checkpoint(self.path)

    @staticmethod
    def _epoch_is_complete(trainer: L.Trainer) -> bool:
        return trainer.fit_loop.epoch_loop.batch_progress.current.ready >= trainer.num_training_batches
