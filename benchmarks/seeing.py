"""Cost of the default pictures and metrics relative to training, as Markdown: python benchmarks/seeing.py [settings]

Trains `data=mnist model=saaae trainer.max_epochs=3` (or with the given settings) once, with everything enabled, and
times each part. Shares are relative to the time spent on training steps.
"""

import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from functools import wraps
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[1]))

from hydra import compose, initialize_config_dir

from saaae.callbacks.latent_health import LatentHealth
from saaae.callbacks.pictures import ReconstructionPictures
from saaae.callbacks.throughput import Throughput
from saaae.config.folder import config_folder
from saaae.config.resolvers import register_resolvers
from saaae.evaluation import test as results
from saaae.metrics.latent import LatentStatistics
from saaae.metrics.per_image import PerImage
from saaae.models import lightning
from saaae.runs.folder import RunFolder
from saaae.runs.run import Run, resolve_config
from saaae.signals import Interruption
from saaae.training import build, fit

DEFAULT = ["data=mnist", "model=saaae", "trainer.max_epochs=3"]


def parts():
    """The functions that are timed for each part, as pairs of owner (class or module) and attribute."""
    hooks = ("on_train_start", "on_train_epoch_end", "on_train_end")
    return {
        "pictures in training": [(ReconstructionPictures, hook) for hook in hooks],
        "metrics of images": [(lightning, "quality_of"), (PerImage, "update"), (PerImage, "compute")],
        "radar metrics": [(build, "speckle_quality")],
        "latent health": [(LatentHealth, "on_validation_end"), (LatentStatistics, "update")],
        "pictures at the end": [(results, "draw"), (results, "project"), (results, "save_examples")],
        "deletion test": [(results, "deletion_test")],
    }


def timed(function, seconds, part):
    """Wraps a function so that its time is added to a part."""

    @wraps(function)
    def wrapper(*arguments, **options):
        start = time.perf_counter()
        try:
            return function(*arguments, **options)
        finally:
            seconds[part] += time.perf_counter() - start

    return wrapper


def main(overrides):
    """Trains and prints the table."""
    seconds: Counter[str] = Counter()
    speeds: list[Throughput] = []

    def throughput():
        """Keeps a reference to the callback, which measures the training time."""
        speeds.append(Throughput())
        return speeds[-1]

    register_resolvers()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        cfg = resolve_config(compose("train", overrides))
    with tempfile.TemporaryDirectory() as folder, Interruption() as interruption, ExitStack() as patches:
        for part, places in parts().items():
            for owner, name in places:
                patches.enter_context(patch.object(owner, name, timed(getattr(owner, name), seconds, part)))
        patches.enter_context(patch.object(fit, "Throughput", throughput))
        fit.fit(Run(cfg, RunFolder(folder), overrides, {"seed": 0}), interruption)
    training = speeds[0].seconds
    print(f"\n{' '.join(overrides)}: {training:.1f} s of training steps\n")
    print("| part | s | share |\n|---|---|---|")
    for part, spent in [*seconds.items(), ("all", sum(seconds.values()))]:
        print(f"| {part} | {spent:.2f} | {spent / training:.1%} |")


if __name__ == "__main__":
    main(sys.argv[1:] or DEFAULT)
