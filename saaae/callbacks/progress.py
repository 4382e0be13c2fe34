"""Progress where no terminal shows a bar."""

import logging
import time

import lightning as L
from lightning.pytorch.callbacks import Callback

log = logging.getLogger("saaae")

SHOWN = {"val/elbo": "elbo {:.1f}", "val/ssim": "ssim {:.4f}", "val/psnr": "psnr {:.2f}"}


class EpochLines(Callback):
    """One plain line an epoch, after its validation."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clock."""
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Prints the line."""
        values = "  ".join(
            text.format(float(trainer.callback_metrics[name]))
            for name, text in SHOWN.items()
            if name in trainer.callback_metrics
        )
        total = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else "?"
        seconds = time.perf_counter() - self._start
        log.info(f"epoch {trainer.current_epoch + 1}/{total}  {values}  {seconds:.0f} s")
