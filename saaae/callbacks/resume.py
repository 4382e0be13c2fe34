"""Random state in checkpoints, so that a resumed run equals an uninterrupted one."""

import logging
import random
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback

log = logging.getLogger("saaae")


def random_state() -> dict[str, Any]:
    """State of every generator as tensors and plain containers, loadable with `weights_only=True`."""
    name, keys, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "python": random.getstate(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Restores a `random_state()`."""
    torch.set_rng_state(state["torch"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    for device, cuda_state in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(cuda_state, device)


class RandomState(Callback):
    """Saves the random state of every process, and restores it before the next draw that matters.

    Loaders draw from generators of their own, so nothing touches the global ones between `on_train_start` and the
    noise of the first batch.

    Args:
        seed: Seed of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._pending: list[dict[str, Any]] = []

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds the random state of every process."""
        states: list[Any] = [random_state()]
        if trainer.world_size > 1:
            states = [None] * trainer.world_size
            torch.distributed.all_gather_object(states, random_state())
        checkpoint["random_state"] = states

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Holds the state until training starts, because the set-up still draws random numbers."""
        self._pending = checkpoint["random_state"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restores the state; a new run, or one on another number of processes, seeds each process differently."""
        if len(self._pending) == trainer.world_size:
            restore_random_state(self._pending[trainer.global_rank])
        elif self._pending:
            log.warning("warning: resumed on %d processes instead of %d: not bit for bit",
                        trainer.world_size, len(self._pending))  # fmt: skip
        if len(self._pending) != trainer.world_size and trainer.global_rank:
            torch.manual_seed(self.seed + 1_000_003 * trainer.global_rank + trainer.global_step)
        self._pending = []
