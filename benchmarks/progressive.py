"""Growth from small images against training at full size from the start, in the same measured training time.

`python benchmarks/progressive.py 3 [overrides]` trains `experiment=progressive` for each of three seeds, then the same
model at full size for as many whole epochs, rounded up, as its speed there allows on average in the training seconds of
all stages. Validations and tests are not counted. Both are tested on the same full-size images. Runs are in
outputs/progressive; a repeated command reads those that have finished.
"""

import json
import math
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from saaae.config.folder import config_folder
from saaae.config.resolvers import register_resolvers
from saaae.runs.folder import RunFolder
from saaae.runs.run import Run, resolve_config
from saaae.runs.stages import stages_before
from saaae.signals import Interruption
from saaae.training.growth import fit_in_stages

OUTPUTS = Path("outputs/progressive")
METRICS = ("elbo", "ssim", "psnr", "ssim_clean", "psnr_clean")


def trained(folder: Path, words: list[str]) -> Run:
    """A finished run with overrides, in a folder: trained, continued, or as it is."""
    register_resolvers()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        cfg = resolve_config(compose("train", words))
    run = Run(cfg, RunFolder(folder.absolute()), words, {"seed": cfg.seed})
    if run.folder.record.is_file():
        run.folder.check_same_config(run.cfg)
    if not run.folder.metrics.is_file():
        run.folder.path.mkdir(parents=True, exist_ok=True)
        with Interruption() as interruption:
            fit_in_stages(run, interruption)
    return run


def results(run: Run) -> dict[str, dict[str, float]]:
    """Content of metrics.json."""
    content: dict[str, dict[str, float]] = json.loads(run.folder.metrics.read_text())
    return content


def seconds_and_speed(run: Run) -> tuple[float, float]:
    """Seconds that a run was trained, without its stages before, and its images per second."""
    train = results(run)["train"]
    images = min(train["steps"] * run.cfg.data.batch_size, train["epochs"] * run.cfg.data.num_train)
    return images / train["images_per_second"], train["images_per_second"]


def row(name: str, seed: int, seconds: float, run: Run) -> None:
    """Prints a row of the table."""
    test = results(run)["test"]
    numbers = " | ".join(f"{test[key]:.3f}" if "ssim" in key else f"{test[key]:.2f}" for key in METRICS)
    print(f"| {name} | {seed} | {seconds:.0f} | {results(run)['train']['steps']:.0f} | {numbers} |", flush=True)


def main(seeds: int, words: list[str]) -> None:
    """Trains and prints the table.

    The full-size runs end with an epoch: best.ckpt is chosen at the end of epochs, so later weights would not count.
    """
    rows, epochs = [], []
    for seed in range(seeds):
        grown = trained(OUTPUTS / f"grown-{seed}", ["experiment=progressive", f"seed={seed}", *words])
        own, speed = seconds_and_speed(grown)
        seconds = own + sum(seconds_and_speed(stage)[0] for stage in stages_before(grown))
        epochs.append(seconds * speed / grown.cfg.data.num_train)
        rows.append(("grown", seed, seconds, grown))
    length = ["stages=[]", f"trainer.max_epochs={math.ceil(statistics.mean(epochs))}"]
    for seed in range(seeds):
        whole = trained(OUTPUTS / f"whole-{seed}", ["experiment=progressive", f"seed={seed}", *words, *length])
        rows.append(("full size", seed, seconds_and_speed(whole)[0], whole))
    print(f"\n| training | seed | seconds | last steps | {' | '.join(METRICS)} |\n|{'---|' * (4 + len(METRICS))}")
    for each in rows:
        row(*each)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1, sys.argv[2:])
