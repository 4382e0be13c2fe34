"""Progress of a run: one bar on a terminal, plain lines elsewhere."""

import contextlib
import logging
import math
import os
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, Timer
from torch import Tensor

log = logging.getLogger("saaae")

SHOWN = {"val/elbo": "elbo {:9.1f}", "val/ssim": "ssim {:.4f}", "val/psnr": "psnr {:5.2f}"}
KEPT = 0.8
"""Smoothing of the bar's rate: about the last five updates count."""


def clock(seconds: float) -> str:
    """Minutes and seconds, and hours where there are any."""
    minutes, rest = divmod(round(max(seconds, 0.0)), 60)
    return f"{minutes}:{rest:02}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def epoch_of(trainer: L.Trainer) -> str:
    """Number of the epoch, and of all epochs if known."""
    last = str(trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else "?")
    return f"epoch {trainer.current_epoch + 1:{len(last)}}/{last}"


def terminal_width() -> int:
    """Columns of the terminal at stderr minus one; 79 if unknown."""
    try:
        return (os.get_terminal_size(2).columns or 80) - 1
    except OSError:
        return 79


class Progress(Callback):
    """Base: loss, metrics, training rate and time left. Only an update, once per interval, waits for the device.

    Attributes:
        interval: Seconds between updates.
    """

    interval: float
    _since: float | None
    _loss: Tensor | None
    _metrics: dict[str, float]

    def refresh(self, trainer: L.Trainer) -> None:
        raise NotImplementedError

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clock, at the step that a resumed run continues from."""
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        limits = [callback.time_remaining() for callback in callbacks if isinstance(callback, Timer)]
        self._begin(trainer.global_step, trainer.estimated_stepping_batches, *limits)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Restarts the training clock after validation and checkpoints."""
        if self._since is None or batch_idx == 0:
            self._since = time.monotonic()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts the images and updates the display when it is due."""
        assert self._since is not None
        now = time.monotonic()
        self._seconds += now - self._since
        self._images += len(batch.indices) * trainer.world_size
        self._since, self._loss = now, outputs["loss"]
        if self._is_due():
            self.refresh(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._since, metrics = None, trainer.callback_metrics
        self._metrics = {name: float(metrics[name]) for name in SHOWN if name in metrics}

    def _begin(self, first: int, total: float, *limits: float | None) -> None:
        """Counts from step `first` to `total`, if given, for at most so many seconds."""
        self._first, self._total = first, total if total > 0 else math.inf
        self._limit = min((limit for limit in limits if limit is not None), default=math.inf)
        self._start = self._seen = time.monotonic()
        self._seconds, self._images, self._since, self._loss, self._metrics = 0.0, 0.0, None, None, {}

    def _is_due(self) -> bool:
        now = time.monotonic()
        due = now - self._seen >= self.interval
        self._seen = now if due else self._seen
        return due

    def _numbers(self, trainer: L.Trainer, *metrics: str) -> list[str]:
        """The last batch's loss, the newest metrics and the images per second, as far as they are known."""
        texts = []
        if self._loss is not None:  # of an accumulated step, Lightning gives each batch its share
            texts.append(f"loss {float(self._loss) * trainer.accumulate_grad_batches:8.1f}")
        texts += [SHOWN[name].format(self._metrics[name]) for name in metrics if name in self._metrics]
        return [*texts, f"{self._images / self._seconds:4.0f} img/s"] if self._seconds else texts

    def _left(self, step: int) -> list[str]:
        """The time left: at the pace of this process, including validation and checkpoints, or up to the time limit."""
        elapsed = time.monotonic() - self._start
        left = self._limit - elapsed
        if step > self._first:
            left = min(left, elapsed / (step - self._first) * (self._total - step))
        return [f"{clock(left)} left"] if 0 < left < math.inf else []


class ProgressBar(Progress):
    """One bar over all optimizer steps of a run, at stderr; a test has its own, removed at its end."""

    interval = 0.5
    _bar: Any = None

    def refresh(self, trainer: L.Trainer) -> None:
        self._draw(trainer, epoch_of(trainer), trainer.global_step)
        self._images, self._seconds = KEPT * self._images, KEPT * self._seconds

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._open(trainer, epoch_of(trainer), leave=True)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._draw(trainer, "validating", trainer.global_step)

    def on_validation_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if self._bar is not None and self._is_due():
            self._draw(trainer, "validating", trainer.global_step)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        self._draw(trainer, epoch_of(trainer), trainer.global_step)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keeps the finished bar on the screen as one line."""
        took = f"took {clock(time.monotonic() - self._start)}"
        self._draw(trainer, f"{trainer.global_step} steps", trainer.global_step, took)
        self._close()

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._begin(0, sum(trainer.num_test_batches))
        self._open(trainer, "testing", leave=False)

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        if self._is_due():
            self._draw(trainer, "testing", batch_idx + 1)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Ends the line of the bar, so that the error message starts on its own."""
        self._close()

    def _open(self, trainer: L.Trainer, title: str, leave: bool) -> None:
        from tqdm import tqdm

        if trainer.is_global_zero:
            self._bar = tqdm(total=self._total, leave=leave, bar_format=title, nrows=20)  # some terminals report 0
            self._draw(trainer, title, self._first)
            log.addFilter(self._make_way)

    def _draw(self, trainer: L.Trainer, title: str, step: int, *end: str) -> None:
        if self._bar is None:
            return
        done = f"step {step}" if math.isinf(self._total) else "{percentage:3.0f}%|{bar}|"
        texts = [f"{title} {done}", *self._numbers(trainer, "val/ssim"), *(end or self._left(step))]
        self._bar.n, self._bar.ncols = step, terminal_width()
        self._bar.bar_format = "  ".join(texts)
        self._bar.refresh()

    def _close(self) -> None:
        log.removeFilter(self._make_way)
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _make_way(self, record: logging.LogRecord) -> bool:
        """Clears the line for a message; the next batch draws the bar again."""
        with contextlib.suppress(RuntimeError):  # a signal's message may come while the bar is being written
            self._bar.clear()
        self._seen = -math.inf
        return True


class EpochLines(Progress):
    """One plain line per epoch, after its validation, and one per minute inside a longer epoch."""

    interval = 60.0

    def refresh(self, trainer: L.Trainer) -> None:
        step = trainer.global_step
        of = "" if math.isinf(self._total) else f"/{self._total}"
        log.info("  ".join([f"  step {step}{of}", *self._numbers(trainer), *self._left(step)]))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        times = ", ".join([clock(time.monotonic() - self._start), *self._left(trainer.global_step)])
        log.info("  ".join([epoch_of(trainer), *self._numbers(trainer, *SHOWN), times]))
        self._seconds, self._images, self._metrics, self._seen = 0.0, 0.0, {}, time.monotonic()
