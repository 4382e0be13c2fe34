"""Training speed of train.py compared with a hand-written loop: python benchmarks/training.py [rounds]

Both train the same VAE on the same random 28-pixel images with the same optimizer, alternately in one process;
`lightning` is what train.py runs: data module, logged terms, metrics.csv, TensorBoard, clipping, schedule.
Prints images per second for each round, and the ratios. --allocator measures the gain from keeping freed blocks
instead, --checkpoints the cost of a checkpoint every 50 steps.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch.loggers import TensorBoardLogger

from saaae.callbacks.checkpoint import LastCheckpoint
from saaae.callbacks.finite import FiniteGuard
from saaae.callbacks.metrics_csv import MetricsCSV
from saaae.callbacks.resume import RandomState
from saaae.callbacks.step_metrics import StepMetrics
from saaae.callbacks.throughput import Throughput
from saaae.config.folder import config_folder
from saaae.config.resolvers import register_resolvers
from saaae.data.images import Images
from saaae.models.lightning import AutoencoderModule
from saaae.rng import GlobalRandom
from saaae.runs.folder import RunFolder
from saaae.runs.run import resolve_config
from saaae.signals import Interruption
from saaae.training.build import build
from saaae.training.devices import make_trainer
from saaae.training.malloc import keep_freed_blocks
from saaae.training.process import configure_process
from saaae.types import Batch

STEPS, BATCH = 100, 128


def prepare():
    """Configuration, model and data of `model=vae` on random images instead of digits."""
    register_resolvers()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        cfg = resolve_config(
            compose("train", ["model=vae", "data.image_size=28", "data.num_train=6", f"data.batch_size={BATCH}"])
        )
    configure_process(cfg)
    model, data = build(cfg)
    pixels = torch.randint(0, 256, (STEPS * BATCH, 1, 28, 28), dtype=torch.uint8)
    data.splits = {**data.splits, "train": Images(pixels)}
    plain_images = type(data).__mro__[1]
    data.present = plain_images.present.__get__(data)  # type: ignore[method-assign, attr-defined]  # no speckle
    return cfg, model, data


def tight(model, data):
    """A bare eager loop with the same model, loss and optimizer."""
    pixels = data.splits["train"].pixels
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, fused=True)
    rng = GlobalRandom()
    model.train()
    start = time.perf_counter()
    for indices in torch.randperm(len(pixels)).split(BATCH):
        x = pixels[indices].float() / 255
        q = model.encode(Batch(x, x, indices, rng))
        loss = (model.likelihood.nll(model.decoder(q.rsample(rng)), x) + q.kl).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1000.0)
        optimizer.step()
    return len(pixels) / (time.perf_counter() - start)


def lightning(cfg, model, data, every_n_steps=None):
    """One epoch of what train.py runs, without validation, with an optional checkpoint interval."""
    throughput, interval = Throughput(), cfg.trainer.log_every_n_steps
    data._position = (0, 0)
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as path:
        folder = RunFolder(path)
        last = LastCheckpoint(folder.last, folder.previous, every_n_steps, None, Interruption())
        watch = [throughput, FiniteGuard("stop", interval), StepMetrics(interval), RandomState(0), last]
        make_trainer(
            cfg, folder, max_epochs=1, limit_val_batches=0, enable_progress_bar=False, enable_model_summary=False,
            log_every_n_steps=interval, callbacks=watch, logger=[TensorBoardLogger(path), MetricsCSV(folder.curves, 0)],
        ).fit(AutoencoderModule(model, log_every_n_steps=interval), data)  # fmt: skip
    return throughput.images_per_second


def median(values):
    """The middle value; of an even number of values, the upper one."""
    return sorted(values)[len(values) // 2]


def compare(rounds, checkpoints):
    """Alternates two loops and prints each round: bare and train.py, or train.py without and with checkpoints."""
    keep_freed_blocks()
    cfg, model, data = prepare()
    loops = {"tight": lambda: tight(model, data), "train.py": lambda: lightning(cfg, model, data)}
    if checkpoints:  # two in 100 steps, besides the one at the end of the epoch, which is not timed
        loops = {"none": loops["train.py"], "every 50 steps": lambda: lightning(cfg, model, data, every_n_steps=40)}
    tight(model, data)
    (first, reference), (second, other) = loops.items()
    pairs = []
    for i in range(rounds):
        pairs.append((reference(), other()))
        print(f"round {i + 1}: {first} {pairs[-1][0]:.0f} img/s, {second} {pairs[-1][1]:.0f} img/s")
    ratios = [b / a for a, b in pairs]
    print(f"{second} / {first}: median {median(ratios):.3f}, range {min(ratios):.3f} to {max(ratios):.3f}")


def speed(keep):
    """Images per second in the second round of the bare loop, with or without keeping freed blocks."""
    if keep:
        keep_freed_blocks()
    _, model, data = prepare()
    tight(model, data)
    return tight(model, data)


def allocator(rounds):
    """Runs the bare loop in new processes, alternately with and without keeping freed blocks."""
    results: dict[str, list[float]] = {"kept": [], "default": []}
    for _ in range(rounds):
        for mode, speeds in results.items():
            command = [sys.executable, __file__, f"--{mode}"]
            output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            speeds.append(float(output.splitlines()[-1]))
    ratios = [a / b for a, b in zip(results["kept"], results["default"], strict=True)]
    print(f"kept {median(results['kept']):.0f} img/s, default {median(results['default']):.0f} img/s")
    print(f"kept / default: median {median(ratios):.2f}, range {min(ratios):.2f} to {max(ratios):.2f}")


if __name__ == "__main__":
    words = sys.argv[1:]
    count = next((int(word) for word in words if word.isdigit()), 3)
    if "--kept" in words or "--default" in words:  # one of the processes of --allocator
        print(speed("--kept" in words))
    elif "--allocator" in words:
        allocator(count)
    else:
        compare(count, "--checkpoints" in words)
