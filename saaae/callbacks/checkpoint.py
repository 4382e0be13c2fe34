"""When last.ckpt is written, and how: never at the cost of the previous one."""

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


class LastCheckpoint(Checkpoint):
    """Keeps one checkpoint of everything, from which a run resumes exactly.

    It is written after each epoch, after every so many steps inside one, and where `max_steps` ends an epoch early:
    Lightning's own would mark that epoch as finished, and a resumed run would skip the rest of it.

    Args:
        path: The file.
        every_n_steps: Optimizer steps between checkpoints inside an epoch; None for none.
    """

    def __init__(self, path: Path, every_n_steps: int | None) -> None:
        self.path, self.every_n_steps = path, every_n_steps

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves inside an epoch."""
        step = trainer.global_step
        due = self.every_n_steps is not None and step % self.every_n_steps == 0
        if (due or step == trainer.max_steps) and not self._epoch_is_complete(trainer):
            trainer.save_checkpoint(self.path)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves a finished epoch, after its validation."""
        if self._epoch_is_complete(trainer):
            trainer.save_checkpoint(self.path)

    @staticmethod
    def _epoch_is_complete(trainer: L.Trainer) -> bool:
        return trainer.fit_loop.epoch_loop.batch_progress.current.ready >= trainer.num_training_batches
