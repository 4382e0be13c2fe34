"""Non-finite losses or gradients end a run or skip a step, and are reported."""

import logging
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from saaae.errors import RunFailedError

log = logging.getLogger("saaae")

PATIENCE = 50
"""Steps in a row that `skip` may skip: after that the weights will not recover."""
SHOWN = 16
"""Image indices that a message lists."""


class FiniteGuard(Callback):
    """Checks the loss, its terms and the gradient norm of every step; the optimizer itself skips a bad step.

    On a CPU it checks at once; on a GPU, where a check waits for the device, every `interval` batches.

    Args:
        on_nonfinite: `stop` ends the run; `skip` warns and continues with the next batch.
        interval: Batches between checks on a GPU.
    """

    def __init__(self, on_nonfinite: Literal["stop", "skip"], interval: int) -> None:
        self.on_nonfinite, self.interval = on_nonfinite, interval
        self._in_a_row = self._step = 0
        self._batches: list[tuple[Tensor, dict[str, Tensor]]] = []
        self._unchecked: list[tuple[int, Tensor, dict[str, Tensor]]] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Collects the numbers of all batches of a step, and checks them when due."""
        self._batches.append((batch.indices, {name: outputs[name] for name in ("loss", "nll", "kl")}))
        if trainer.global_step == self._step:  # more batches of this step follow
            return
        assert isinstance(pl_module.gradient_norm, Tensor)
        self._step, batches, self._batches = trainer.global_step, self._batches, []
        terms = {name: torch.stack([numbers[name] for _, numbers in batches]).sum() for name in batches[0][1]}
        indices = torch.cat([indices for indices, _ in batches])
        self._unchecked.append((self._step, indices, terms | {"gradient norm": pl_module.gradient_norm}))
        if len(self._unchecked) >= (1 if pl_module.device.type == "cpu" else self.interval):
            self.check()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.check()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Checks the validation: one finite step may have ruined the weights."""
        names = [n for n, v in trainer.callback_metrics.items() if n.startswith("val/") and not torch.isfinite(v)]
        if names and trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._answer(f"epoch {trainer.current_epoch + 1}: {', '.join(names)} not finite", left_out=False)

    def check(self) -> None:
        """Reports what is not finite.

        Raises:
            RunFailedError: If the run is to stop, or too many steps in a row were bad.
        """
        unchecked, self._unchecked = self._unchecked, []
        if not unchecked:
            return
        device = unchecked[0][1].device
        values = torch.stack(
            [torch.stack([n.detach().to(device, torch.float32) for n in numbers.values()]) for *_, numbers in unchecked]
        )
        finite = values.isfinite()
        if finite.all():
            self._in_a_row = 0
            return
        for (step, indices, numbers), good in zip(unchecked, finite.tolist(), strict=True):
            self._in_a_row = 0 if all(good) else self._in_a_row + 1
            if not all(good):
                names = [name for name, is_good in zip(numbers, good, strict=True) if not is_good]
                what = f"step {step}: {', '.join(names)} not finite; training images {_listed(indices)}"
                self._answer(what, left_out="gradient norm" in names)

    def _answer(self, what: str, left_out: bool) -> None:
        if self.on_nonfinite == "stop":
            held = "no checkpoint holds it: " if left_out else ""  # a validation may find what an earlier step ruined
            raise RunFailedError(
                f"{what}; {held}a smaller optimizer.lr or optimizer.gradient_clip may help, on_nonfinite=skip continues"
            )
        if self._in_a_row > PATIENCE:
            raise RunFailedError(f"{what}, like the {PATIENCE} steps before it")
        log.warning("warning: %s%s", what, "; the step is left out" if left_out else "")


def _listed(indices: Tensor) -> str:
    shown = ", ".join(map(str, indices[:SHOWN].tolist()))
    return shown if len(indices) <= SHOWN else f"{shown} and {len(indices) - SHOWN} more"
