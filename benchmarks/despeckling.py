"""Despeckling against classical filters: python benchmarks/despeckling.py <run of experiment=despeckle> ...

Whole test scenes of 256 pixels, with new but reproducible speckle: white speckle of 1 to 10 looks, and speckle of one
look with a correlation of 0.33 between neighbours, which no run was trained on. Amplitudes are in [0, 1]; PSNR (mean
over scenes, peak 1) and SSIM are computed against the clean scene. The windows and damping of the filters are
the best on the validation scenes with the same speckle. MoR is the mean of noisy / restored intensity: 1 if brightness
is preserved. Several runs are averaged, with their standard deviation.
"""

import itertools
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch.nn.functional import pad, unfold

from saaae.config.resolvers import register_resolvers
from saaae.metrics.image import reconstruction_quality
from saaae.runs.checkpoints import load_weights
from saaae.runs.folder import RunFolder
from saaae.training.build import build

LAWS = [(1, 0.0), (2, 0.0), (4, 0.0), (8, 0.0), (10, 0.0), (1, 0.33)]


def windows(x, side):
    """Neighbourhoods (B, side**2, H, W) of images (B, 1, H, W), reflected at the border."""
    padded = pad(x, [side // 2] * 4, mode="reflect")
    return unfold(padded, side).view(len(x), side**2, *x.shape[-2:])


def moments(intensity, side):
    """Neighbourhoods, local mean and squared coefficient of variation of intensities (B, 1, H, W)."""
    near = windows(intensity, side)
    mean = near.mean(1, keepdim=True)
    return near, mean, near.var(1, keepdim=True) / mean**2


def boxcar(intensity, looks, side):
    """Local mean."""
    return moments(intensity, side)[1]


def lee(intensity, looks, side):
    """Lee 1980: local linear minimum-MSE estimate under multiplicative noise of variance 1/L."""
    _, mean, variation = moments(intensity, side)
    gain = ((1 - 1 / looks / variation) / (1 + 1 / looks)).clamp(0, 1)
    return mean + gain * (intensity - mean)


def frost(intensity, looks, side, damping):
    """Frost et al. 1982: weights that decrease exponentially with distance, faster where the scene varies more."""
    near, _, variation = moments(intensity, side)
    axis = torch.arange(side) - side // 2
    distance = torch.hypot(axis[:, None].float(), axis[None].float()).view(1, -1, 1, 1)
    weights = torch.exp(-damping * variation * distance)
    return (weights * near).sum(1, keepdim=True) / weights.sum(1, keepdim=True)


SIDES = [3, 5, 7, 9, 11]
FILTERS: dict[str, tuple[Any, list[Any]]] = {
    "boxcar": (boxcar, [(side,) for side in SIDES]),
    "Lee": (lee, [(side,) for side in SIDES]),
    "Frost": (frost, list(itertools.product(SIDES, [0.5, 1.0, 2.0, 4.0]))),
}


def score(restore, batch):
    """PSNR, SSIM, MoR and seconds per scene of a function of amplitudes (B, 1, H, W), applied scene by scene."""
    start = time.perf_counter()
    with torch.inference_mode():
        restored = torch.cat([restore(x).clamp(0, 1) for x in batch.input.split(1)])
    seconds = (time.perf_counter() - start) / len(restored)
    found = reconstruction_quality(restored, batch.clean)
    ratio = (batch.input**2 / restored.clamp_min(0.01) ** 2).mean()
    return float(found["psnr"].mean()), float(found["ssim"].mean()), float(ratio), seconds


def best_filter(name, looks, val, test):
    """Test scores of a filter with the parameters that have the best PSNR on the validation scenes."""
    function, grid = FILTERS[name]

    def with_parameters(parameters):
        return lambda x: function(x**2, looks, *parameters).sqrt()

    best = max(grid, key=lambda parameters: score(with_parameters(parameters), val)[0])
    return score(with_parameters(best), test)


def open_run(path):
    """The best model of a run, for whole scenes of 256 pixels, and its data."""
    register_resolvers()
    folder = RunFolder(path)
    cfg = folder.config()
    cfg.data.image_size, cfg.data.scene_size = 256, None
    cfg.data.num_train = 1
    cfg.model.image_size = 256
    model, data = build(cfg)
    load_weights(model, folder.best)
    data.setup()
    return model.eval(), data


def restored_by(model, batch, x):
    """Reconstruction of amplitudes (1, 1, H, W)."""
    return model(batch._replace(input=x))


def main(runs):
    """Prints the table."""
    opened = [open_run(path) for path in runs]
    data = opened[0][1]
    rows: dict[str, list[Any]] = {name: [] for name in ["noisy", *FILTERS, "despeckler"]}
    for data.looks, data.correlation in LAWS:
        val, test = (data.batch(split, torch.arange(data.num_images(split))) for split in ("val", "test"))
        rows["noisy"].append([score(lambda x: x, test)])
        for name in FILTERS:
            rows[name].append([best_filter(name, data.looks, val, test)])
        rows["despeckler"].append([score(partial(restored_by, model, test), test) for model, _ in opened])
    laws = [f"L = {looks}" + (f", correlated {correlation}" if correlation else "") for looks, correlation in LAWS]
    print(f"| dB / SSIM, {data.num_images('test')} scenes | {' | '.join(laws)} | MoR, L = 1 | s/scene |")
    print("|---" * (len(laws) + 3) + "|")
    for name, cells in rows.items():
        found = [torch.tensor(cell).double() for cell in cells]
        spread = [f" +- {c[:, 0].std():.2f}" if len(c) > 1 else "" for c in found]
        texts = [f"{c[:, 0].mean():.2f}{s} / {c[:, 1].mean():.3f}" for c, s in zip(found, spread, strict=True)]
        print(f"| {name} | {' | '.join(texts)} | {found[0][:, 2].mean():.2f} | {found[0][:, 3].mean():.2f} |")


if __name__ == "__main__":
    main(sys.argv[1:])
