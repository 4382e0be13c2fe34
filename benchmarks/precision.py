"""Every model in every precision: python benchmarks/precision.py [steps] [--pairs]

Trains each model on the same generated 32-pixel images (conditional models on digits) and prints the final loss (mean
over the last quarter of the steps) in nats per image: mean and standard deviation over three seeds. Compare differences
with the spread over seeds: runs that differ only by rounding diverge like runs with different seeds, only later.
16-mixed is included if there is a GPU.

With --pairs, trains every model with every likelihood with one seed and prints the loss in 32 bits and its change in
the other precisions, relative to the improvement of 32-bit training since its first step.
"""

import itertools
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch.callbacks import Callback

from saaae.config.resolvers import register_resolvers
from saaae.runs.folder import RunFolder
from saaae.runs.run import resolve_config
from saaae.training.build import build, build_errors, lightning_module
from saaae.training.devices import make_trainer
from saaae.training.process import configure_process

ROOT = Path(__file__).parents[1]
SCENES = [
    "data.num_train=64", "data.num_val=8", "data.num_test=8", "data.image_size=32", "data.batch_size=8",
]  # fmt: skip
SEEDS = (0, 1, 2)
DIGITS = ["data=mnist", "data.batch_size=8"]


def options(group):
    """Names of the options of a group."""
    return sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml"))


def losses(model, likelihood, precision, steps, gpu, folder, seed=0):
    """The loss of every step; None if model and likelihood are incompatible. `likelihood=None`: the model's default."""
    images = DIGITS if model.startswith("cvae") else SCENES
    words = [f"model={model}", f"accelerator.precision={precision}", f"seed={seed}", *images]
    words += [f"likelihood={likelihood}"] if likelihood else []
    words += ["optimizer.schedule=constant", f"trainer.max_steps={steps}", f"accelerator={'gpu' if gpu else 'cpu'}"]
    cfg = resolve_config(compose("train", words))
    if build_errors([cfg]):
        return None
    configure_process(cfg)
    model, data = build(cfg)

    class Losses(Callback):
        """Collects the losses on the device."""

        def __init__(self):
            self.seen = []

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            """Stores the loss of a step."""
            self.seen.append(outputs["loss"].detach())

    keep = Losses()
    trainer = make_trainer(
        cfg, RunFolder(folder), max_steps=steps, max_epochs=-1, callbacks=[keep], logger=False, limit_val_batches=0,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(lightning_module(model, data, cfg), data)
    return torch.stack(keep.seen).float().cpu()


def pairs(others, steps, gpu, folder):
    """Prints the table of every model with every likelihood."""
    print(f"| model | likelihood | 32-true, nats | {' | '.join(others)} |")
    print("|" + "---|" * (3 + len(others)))
    shares: dict[str, list[float]] = {precision: [] for precision in others}
    for model, likelihood in itertools.product(options("model"), options("likelihood")):
        reference = losses(model, likelihood, "32-true", steps, gpu, folder)
        if reference is None:
            continue
        part = steps // 4
        end, gain = reference[-part:].mean(), reference[0] - reference[-part:].mean()
        for precision in others:
            found = losses(model, likelihood, precision, steps, gpu, folder)[-part:].mean()
            shares[precision].append(float((found - end) / gain.abs()))
        cells = " | ".join(f"{shares[precision][-1]:+.2%}" for precision in others)
        print(f"| {model} | {likelihood} | {end:.2f} (gained {gain:.2f}) | {cells} |", flush=True)
    for precision, found in shares.items():
        size = sorted(map(abs, found))
        half, most = size[len(size) // 2], size[len(size) * 9 // 10]
        print(f"{precision}: half within {half:.2%}, nine in ten within {most:.2%}")


def seeds(precisions, steps, gpu, folder):
    """Prints the table of models over seeds."""
    print(f"| model | {' | '.join(precisions)} |")
    print("|" + "---|" * (1 + len(precisions)))
    for model in options("model"):
        cells = []
        for precision in precisions:
            found = [losses(model, None, precision, steps, gpu, folder, seed)[-(steps // 4) :].mean() for seed in SEEDS]
            cells.append("{:.1f} ± {:.1f}".format(*reversed(torch.std_mean(torch.stack(found)))))
        print(f"| {model} | {' | '.join(cells)} |", flush=True)


def main():
    """Prints a table."""
    words = [word for word in sys.argv[1:] if not word.startswith("--")]
    steps, gpu = int(words[0]) if words else 100, torch.cuda.is_available()
    torch.set_num_threads(1)
    others = ["bf16-mixed", "bf16-true", "64-true", *(["16-mixed"] if gpu else [])]
    register_resolvers()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"), tempfile.TemporaryDirectory() as folder:
        if "--pairs" in sys.argv:
            pairs(others, steps, gpu, folder)
        else:
            seeds(["32-true", *others], steps, gpu, folder)


if __name__ == "__main__":
    main()
