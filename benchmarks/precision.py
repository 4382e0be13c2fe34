"""Every model with every likelihood in every precision: python benchmarks/precision.py [steps]

Trains each on the same generated 32-pixel images (conditional models on digits) with the same seed, noise and order,
and prints the loss at the end, the mean of the last quarter of the steps, in nats per image: in 32 bits, then what
another precision adds to it, as a share of what 32-bit training gained since its first quarter. 16-mixed where there is
a GPU.
"""

import itertools
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
SCENES = [
    "data.num_train=64", "data.num_val=8", "data.num_test=8", "data.image_size=32", "data.batch_size=8",
]  # fmt: skip
DIGITS = ["data=mnist", "data.batch_size=8"]


def options(group):
    """Names of a group's files."""
    return sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml"))


def losses(model, likelihood, precision, steps, gpu, folder):
    """The loss of every step; None where the parts do not go together."""
    import torch
    from hydra import compose
    from lightning.pytorch.callbacks import Callback

    from saaae.runs.fit import build, make_trainer, set_up
    from saaae.runs.folder import RunFolder
    from saaae.runs.train import settle
    from saaae.runs.validate import combinations

    images = DIGITS if model.startswith("cvae") else SCENES
    words = [f"model={model}", f"likelihood={likelihood}", f"accelerator.precision={precision}", *images]
    words += ["optimizer.schedule=constant", f"trainer.max_steps={steps}", f"accelerator={'gpu' if gpu else 'cpu'}"]
    cfg = settle(compose("train", words))
    if combinations(cfg):
        return None
    set_up(cfg)
    module, data = build(cfg)

    class Losses(Callback):
        """Keeps them on the device."""

        def __init__(self):
            self.seen = []

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            """Remembers one."""
            self.seen.append(outputs["loss"].detach())

    keep = Losses()
    trainer = make_trainer(
        cfg, RunFolder(folder), max_steps=steps, max_epochs=-1, callbacks=[keep], logger=False, limit_val_batches=0,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, data)
    return torch.stack(keep.seen).float().cpu()


def main():
    """Prints the table."""
    import torch
    from hydra import initialize_config_dir

    from saaae.runs.folder import register_resolvers

    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    gpu = torch.cuda.is_available()
    torch.set_num_threads(1)
    others = ["bf16-mixed", "bf16-true", "64-true", *(["16-mixed"] if gpu else [])]
    register_resolvers()
    print(f"| model | likelihood | 32-true, nats | {' | '.join(others)} |")
    print("|" + "---|" * (3 + len(others)))
    worst = dict.fromkeys(others, 0.0)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"), tempfile.TemporaryDirectory() as folder:
        for model, likelihood in itertools.product(options("model"), options("likelihood")):
            reference = losses(model, likelihood, "32-true", steps, gpu, folder)
            if reference is None:
                continue
            part = steps // 4
            end, gain = reference[-part:].mean(), reference[:part].mean() - reference[-part:].mean()
            cells = []
            for precision in others:
                found = losses(model, likelihood, precision, steps, gpu, folder)[-part:].mean()
                share = float((found - end) / gain.abs())
                worst[precision] = max(worst[precision], abs(share))
                cells.append(f"{share:+.2%}")
            print(f"| {model} | {likelihood} | {end:.2f} (gained {gain:.2f}) | {' | '.join(cells)} |", flush=True)
    print("largest:", ", ".join(f"{precision} {share:.2%}" for precision, share in worst.items()))


if __name__ == "__main__":
    main()
