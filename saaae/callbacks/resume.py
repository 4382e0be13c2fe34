"""What a checkpoint needs beyond weights so that a resumed run equals an uninterrupted one."""

import random
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback


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
    """Puts `random_state()` back."""
    torch.set_rng_state(state["torch"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


class RunState(Callback):
    """Saves the configuration and the random state, and restores the latter before the next draw that matters.

    Args:
        config: Configuration of the run, plain containers.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self._pending: dict[str, Any] | None = None

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds both."""
        checkpoint["config"], checkpoint["random_state"] = self.config, random_state()

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remembers the random state: building loaders still draws."""
        self._pending = checkpoint["random_state"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A run resumed at an epoch's start: before the first iterator is made."""
        if not trainer.fit_loop.restarted_mid_epoch:
            self._restore()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """A run resumed inside an epoch: after its iterator is made."""
        self._restore()

    def _restore(self) -> None:
        if self._pending is not None:
            state, self._pending = self._pending, None
            restore_random_state(state)
