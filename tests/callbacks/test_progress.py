import contextlib
import io
import logging
import os
import pty
from typing import NamedTuple

import lightning as L
import pytest
import torch
import tqdm
from lightning.pytorch.callbacks import LambdaCallback
from torch.utils.data import DataLoader

from saaae.callbacks import progress
from saaae.callbacks.progress import EpochLines, ProgressBar, clock

log = logging.getLogger("saaae")


class Images(NamedTuple):
    """The parts of a batch that the progress bar uses."""

    indices: torch.Tensor


class Clock:
    """A clock that advances only when a test advances it."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True

    def lines(self):
        """The visible lines, without trailing blanks."""
        rows = []
        for line in self.getvalue().split("\n"):
            row = ""
            for text in line.split("\r"):
                row = text + row[len(text) :]
            rows.append(row.rstrip())
        return rows

    def frames(self):
        """Everything that was ever displayed."""
        return self.getvalue().replace("\n", "\r").split("\r")


class Model(L.LightningModule):
    """A training step takes one second of the test clock, a validation step two; `events` run before a step."""

    def __init__(self, clock, step_seconds=1.0, events=()):
        super().__init__()
        self.clock, self.step_seconds, self.events = clock, step_seconds, dict(events)
        self.weight = torch.nn.Parameter(torch.tensor(8.0))

    def training_step(self, batch, batch_idx):
        if self.global_step + 1 in self.events:
            self.events.pop(self.global_step + 1)()
        self.clock.now += self.step_seconds
        return {"loss": 0 * self.weight + 8.0}

    def validation_step(self, batch, batch_idx):
        self.clock.now += 2.0
        for name, value in (("ssim", 0.25), ("elbo", -10.0), ("psnr", 20.0)):
            self.log(f"val/{name}", value, batch_size=4)

    def test_step(self, batch, batch_idx):
        self.clock.now += 1.0

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.fixture
def time(monkeypatch):
    time = Clock()
    monkeypatch.setattr(progress, "time", time)
    return time


@pytest.fixture
def terminal():
    return Terminal()


@pytest.fixture
def messages(monkeypatch):
    """The logged plain lines."""
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    monkeypatch.setattr(log, "handlers", [handler])
    level = log.level
    log.setLevel(logging.INFO)
    yield messages
    log.setLevel(level)


def trainer_with(*callbacks, **arguments):
    return L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=1, callbacks=list(callbacks), **{"max_epochs": 2} | arguments,
    )  # fmt: skip


def batches(count):
    return DataLoader([Images(torch.arange(4))] * count, batch_size=None)


def fit(model, *callbacks, stderr=None, train=3, val=1, ckpt_path=None, **arguments):
    trainer = trainer_with(*callbacks, **arguments)
    with contextlib.redirect_stderr(stderr or io.StringIO()):
        trainer.fit(model, batches(train), batches(val) if val else None, ckpt_path=ckpt_path)
    return trainer


# The bar


def test_a_run_leaves_one_line_on_the_terminal_and_a_test_none(time, terminal, monkeypatch):
    opened = []

    class Counted(tqdm.tqdm):
        def __init__(self, *args, **kwargs):
            opened.append(kwargs)
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(tqdm, "tqdm", Counted)
    model = Model(time)
    trainer = fit(model, ProgressBar(), stderr=terminal)
    line, *rest = terminal.lines()
    assert line.startswith("6 steps 100%|")
    assert line.endswith("|  loss      8.0  ssim 0.2500     4 img/s  took 0:10")
    assert rest == [""]
    assert len(opened) == 1
    with contextlib.redirect_stderr(terminal):
        trainer.test(model, batches(4), verbose=False)
    assert terminal.lines() == [line, ""]
    assert len(opened) == 2
    assert any(frame.startswith("testing  75%|") and frame.endswith("|  0:01 left") for frame in terminal.frames())


def test_the_remaining_time_includes_validation_and_the_speed_does_not(time, terminal):
    fit(Model(time), ProgressBar(), stderr=terminal, train=6, max_epochs=1, val_check_interval=3)
    first, fourth = (next(f for f in terminal.frames() if f.startswith(f"epoch 1/1  {p}%")) for p in (17, 67))
    assert first.endswith("|  loss      8.0     4 img/s  0:05 left")  # five steps remain
    assert fourth.endswith("|  loss      8.0  ssim 0.2500     4 img/s  0:03 left")  # 4 s and 2 s for four of six steps


def test_the_speed_is_that_of_the_last_seconds(time, terminal):
    model = Model(time, events={11: lambda: setattr(model, "step_seconds", 4.0)})
    fit(model, ProgressBar(), stderr=terminal, train=20, val=0, max_epochs=1)
    frames = [frame for frame in terminal.frames() if "img/s" in frame]
    assert "  4 img/s" in frames[9]
    assert "  1 img/s" in frames[16]


def test_the_bar_shows_when_validation_is_running(time, terminal):
    fit(Model(time), ProgressBar(), stderr=terminal, val=3)
    frames = [frame for frame in terminal.frames() if frame.startswith("validating  50%|")]
    assert [frame[-9:] for frame in frames] == ["0:03 left", "0:05 left", "0:07 left", "0:09 left"]


def test_the_bar_of_a_resumed_run_continues_where_it_stopped(time, terminal, tmp_path):
    fit(Model(time), max_epochs=1).save_checkpoint(tmp_path / "last.ckpt")
    time.now += 5000
    fit(Model(time), ProgressBar(), stderr=terminal, ckpt_path=tmp_path / "last.ckpt")
    frames = terminal.frames()
    assert min(int(frame.split("%")[0][-3:]) for frame in frames if "%" in frame) == 50
    fourth = next(frame for frame in frames if frame.startswith("epoch 2/2  67%"))
    assert fourth.endswith("  4 img/s  0:02 left")  # one step per second, two steps remain


def test_accumulated_batches_count_as_one_step_and_show_their_total_loss(time, terminal):
    fit(Model(time), ProgressBar(), stderr=terminal, train=4, accumulate_grad_batches=2)
    line = terminal.lines()[0]
    assert line.startswith("4 steps 100%|")
    assert "loss      8.0" in line


def reads_of_tensors(monkeypatch, *callbacks):
    """Number of times that a run of 20 steps in 5 seconds reads the value of a tensor."""
    reads = []
    with monkeypatch.context() as patch:
        for name in ("__float__", "item"):
            real = getattr(torch.Tensor, name)
            patch.setattr(torch.Tensor, name, lambda tensor, real=real: reads.append(1) or real(tensor))
        clock = Clock()
        patch.setattr(progress, "time", clock)
        fit(Model(clock, step_seconds=0.25), *callbacks, train=20, val=0, max_epochs=1)
    return len(reads)


def test_the_loss_is_read_from_the_device_only_when_shown(monkeypatch):
    others = reads_of_tensors(monkeypatch)
    assert reads_of_tensors(monkeypatch, ProgressBar()) - others == 10 + 1  # every half second, and at the end
    assert reads_of_tensors(monkeypatch, EpochLines()) - others == 1


def test_an_error_starts_on_a_new_line(time, terminal):
    def fail():
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fit(Model(time, events={3: fail}), ProgressBar(), stderr=terminal)
    line, *rest = terminal.lines()
    assert line.startswith("epoch 1/2  33%|")
    assert rest == [""]
    assert not log.filters


def test_a_message_is_printed_on_its_own_line_above_the_bar(time, terminal, messages, monkeypatch):
    handler = logging.StreamHandler(terminal)
    monkeypatch.setattr(log, "handlers", [handler])
    fit(Model(time, step_seconds=0.01, events={2: lambda: log.info("a message")}), ProgressBar(), stderr=terminal)
    lines = terminal.lines()
    assert lines[0] == "a message"
    assert lines[1].startswith("6 steps")
    after = terminal.getvalue().split("a message")[1]
    assert "epoch 1/2  33%" in after  # drawn again at once, not half a second later


def test_only_the_first_process_draws_the_bar(time, terminal, monkeypatch):
    monkeypatch.setattr(L.Trainer, "is_global_zero", False)
    fit(Model(time), ProgressBar(), stderr=terminal)
    assert terminal.getvalue() == ""


def test_a_run_without_a_fixed_length_counts_steps(time, terminal):
    model = Model(time, events={5: lambda: setattr(model.trainer, "should_stop", True)})
    fit(model, ProgressBar(), stderr=terminal, max_epochs=-1)
    assert any(frame.startswith("epoch 1/? step 2  loss      8.0     4 img/s") for frame in terminal.frames())


def test_max_time_limits_the_remaining_time(time, terminal):
    fit(
        Model(time),
        ProgressBar(),
        stderr=terminal,
        max_epochs=2,
        train=100,
        max_time="00:00:01:00",
        limit_train_batches=100,
    )
    assert any(frame.startswith("epoch 1/2   0%") and frame.endswith("0:59 left") for frame in terminal.frames())


def test_a_line_fits_a_terminal_of_80_columns(time, terminal):
    model = Model(time, step_seconds=400.0, events={5: lambda: setattr(model.trainer, "should_stop", True)})
    fit(model, ProgressBar(), stderr=terminal, max_epochs=1000)
    frames = [frame for frame in terminal.frames() if frame.startswith("epoch    2/1000")]
    assert {len(frame) for frame in frames} == {79}
    assert frames[0].endswith("|  loss      8.0  ssim 0.2500     0 img/s  333:18:18 left")


def test_the_bar_is_shown_if_the_terminal_size_is_unknown(time):
    ours, theirs = pty.openpty()
    with open(theirs, "w", encoding="utf-8") as stderr:
        fit(Model(time), ProgressBar(), stderr=stderr, train=1, max_epochs=1)
    parts = []
    with contextlib.suppress(OSError):  # the end of what was written; it arrives in parts
        while part := os.read(ours, 10_000):
            parts.append(part)
    os.close(ours)
    text = b"".join(parts).decode()
    assert "1 steps 100%|" in text
    assert "took 0:03" in text


# Plain lines


def test_plain_output_has_one_line_per_epoch(time, messages):
    fit(Model(time), EpochLines(), max_epochs=10, max_steps=6)
    numbers = "loss      8.0  elbo     -10.0  ssim 0.2500  psnr 20.00     4 img/s"
    assert messages == [f"epoch  1/10  {numbers}  0:05, 0:05 left", f"epoch  2/10  {numbers}  0:10"]


def test_plain_output_of_a_long_epoch_has_one_line_per_minute(time, messages):
    fit(Model(time, step_seconds=24.0), EpochLines(), train=7, val=0, max_epochs=1)
    assert [line.split("  loss")[0] for line in messages] == ["  step 3/7", "  step 6/7", "epoch 1/1"]
    assert messages[0].endswith("  0 img/s  1:36 left")


def test_plain_output_has_no_lines_within_short_epochs(time, messages):
    fit(Model(time, step_seconds=24.0), EpochLines(), train=2, val=0, max_epochs=3)
    assert [line.split("  loss")[0] for line in messages] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]


def test_the_speed_excludes_checkpoints(time, messages):
    saving = LambdaCallback(on_train_epoch_end=lambda *_: setattr(time, "now", time.now + 30.0))
    fit(Model(time), EpochLines(), saving, val=0)
    assert all("  4 img/s" in line for line in messages)
    assert messages[1].endswith("  0:36")


def test_an_epoch_without_validation_shows_no_older_metrics(time, messages):
    fit(Model(time), EpochLines(), check_val_every_n_epoch=2, max_epochs=3)
    assert ["ssim" in line for line in messages] == [False, True, False]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0:00"), (59.6, "1:00"), (83, "1:23"), (3599, "59:59"), (3600, "1:00:00"), (90061, "25:01:01")],
)
def test_durations_show_hours_only_if_needed(seconds, text):
    assert clock(seconds) == text
