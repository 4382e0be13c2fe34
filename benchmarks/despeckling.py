"""Despeckling against classical filters: python benchmarks/despeckling.py [--unseen] [--real] <run> ...

Whole test scenes of 256 pixels, with new but reproducible speckle: white speckle of 1 to 10 looks, and speckle of one
look with a correlation of 0.33 between neighbours. Amplitudes are in [0, 1]; PSNR (mean over scenes, peak 1) and SSIM
are computed against the clean scene. The windows and damping of the filters are the best on the validation scenes with
the same speckle. MoR is the mean of noisy / restored intensity: 1 if brightness is preserved. Several runs are
averaged, with their standard deviation.

--unseen takes scenes of the six families of unseen_scenes.py instead, not clipped, and more correlations. --real adds
what can be said about real images of SAAAE_DATA_DIR without a clean reference: equivalent number of looks before and
after on the most homogeneous window, and the ratio image of noisy over restored intensity, which ideally has the mean
1, the standard deviation 1/sqrt(L), no correlation with the restored image and that of the speckle between neighbours.
"""

import argparse
import itertools
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import tifffile
import torch
from PIL import Image
from torch.nn.functional import pad, unfold
from unseen_scenes import FAMILIES, unseen_scenes

from saaae.config.resolvers import register_resolvers
from saaae.data.images import Images
from saaae.metrics.image import reconstruction_quality
from saaae.metrics.speckle import speckle_quality
from saaae.runs.checkpoints import load_weights
from saaae.runs.folder import RunFolder
from saaae.training.build import build

LAWS = [(1, 0.0), (2, 0.0), (4, 0.0), (8, 0.0), (10, 0.0), (1, 0.33)]
UNSEEN_LAWS = [*LAWS, (1, 0.6), (4, 0.33)]
UNSEEN = {"val": (6, 1), "test": (24, 2)}
"""Number of unseen scenes of a split, and their seed."""
SIDE = 256


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
    """Mean PSNR, SSIM and MoR, and seconds per scene, of a function of amplitudes (B, 1, H, W), applied scene by scene;
    then the PSNR of each family.
    """
    start = time.perf_counter()
    with torch.inference_mode():
        restored = torch.cat([restore(x).clamp(0, 1) for x in batch.input.split(1)])
    seconds = (time.perf_counter() - start) / len(restored)
    found = reconstruction_quality(restored, batch.clean)
    ratio = (batch.input**2 / restored.clamp_min(0.01) ** 2).mean()
    families = [float(found["psnr"][i :: len(FAMILIES)].mean()) for i in range(len(FAMILIES))]
    return float(found["psnr"].mean()), float(found["ssim"].mean()), float(ratio), seconds, *families


def best_filter(name, looks, val, test):
    """Test scores of a filter with the parameters that have the best PSNR on the validation scenes."""
    function, grid = FILTERS[name]

    def with_parameters(parameters):
        return lambda x: function(x**2, looks, *parameters).sqrt()

    best = max(grid, key=lambda parameters: score(with_parameters(parameters), val)[0])
    return score(with_parameters(best), test)


def open_run(path):
    """The best model of a run, for whole scenes of SIDE pixels, and its data."""
    register_resolvers()
    folder = RunFolder(path)
    cfg = folder.config()
    cfg.data.image_size, cfg.data.scene_size = SIDE, None
    cfg.data.num_train = 1
    cfg.model.image_size = SIDE
    model, data = build(cfg)
    load_weights(model, folder.best)
    data.setup()
    return model.eval(), data


def restored_by(model, batch, x):
    """Reconstruction of amplitudes (1, 1, H, W)."""
    return model(batch._replace(input=x))


def real_images(root):
    """Names and amplitudes (1, 1, H, W) of real images, by kind of sensor; at most SIDE pixels a side, from the middle.

    8-bit images are amplitudes. Float images are intensities, scaled so that their 99th percentile has the amplitude 1.
    """
    for pattern in ("mstar/scenes/*", "sentinel1/*.tif", "despeckling_pairs/noisy/*.png"):
        for path in sorted(root.glob(pattern))[:3]:
            if path.suffix == ".tif":
                intensity = tifffile.imread(path)
                amplitude = np.sqrt(intensity / np.percentile(intensity, 99))
            else:
                amplitude = np.asarray(Image.open(path).convert("L")) / 255
            top, left = ((side - SIDE) // 2 for side in amplitude.shape)
            cut = amplitude[max(top, 0) :, max(left, 0) :][:SIDE, :SIDE]
            height, width = (side // 8 * 8 for side in cut.shape)
            yield path.stem, torch.from_numpy(cut[:height, :width].astype(np.float32))[None, None]


def print_real(model, batch):
    """Prints what a model does to real images; `batch` gives the rest of its input."""
    root = Path(os.environ.get("SAAAE_DATA_DIR", "data")) / "sar"
    if not root.is_dir():
        print(f"real images: skipped, there is no folder {root.name} in SAAAE_DATA_DIR")
        return
    columns = [
        "ENL before",
        "ENL after",
        *(f"ratio: {name}" for name in ("mean", "std", "with restored", "neighbours")),
    ]
    print(f"| image | {' | '.join(columns)} |")
    print("|---" * 7 + "|")
    for name, x in real_images(root):
        with torch.inference_mode():
            restored = restored_by(model, batch, x)
        found = {key: float(value) for key, value in speckle_quality(restored, x).items()}
        ratio = (x / restored.clamp_min(1 / 255)).double().square()[0, 0]
        likeness = correlation(ratio, restored.double().square()[0, 0])
        near = (correlation(ratio[1:], ratio[:-1]) + correlation(ratio[:, 1:], ratio[:, :-1])) / 2
        print(
            f"| {name} | {found['enl_observed']:.1f} | {found['enl']:.0f} | {found['ratio_mean']:.3f} "
            f"| {found['ratio_variance'] ** 0.5:.3f} | {likeness:.3f} | {near:.3f} |"
        )


def correlation(a, b):
    """Pearson's correlation of two tensors of one shape."""
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


def main(runs, unseen=False, real=False):
    """Prints the tables."""
    opened = [open_run(path) for path in runs]
    data = opened[0][1]
    laws = LAWS
    if unseen:
        laws, data.clip = UNSEEN_LAWS, False
        data.splits = {split: Images(unseen_scenes(count, SIDE, seed)) for split, (count, seed) in UNSEEN.items()}
    rows: dict[str, list[Any]] = {name: [] for name in ["noisy", *FILTERS, "despeckler"]}
    for data.looks, data.correlation in laws:
        val, test = (data.batch(split, torch.arange(data.num_images(split))) for split in ("val", "test"))
        rows["noisy"].append([score(lambda x: x, test)])
        for name in FILTERS:
            rows[name].append([best_filter(name, data.looks, val, test)])
        rows["despeckler"].append([score(partial(restored_by, model, test), test) for model, _ in opened])
    titles = [f"L = {looks}" + (f", correlated {correlated}" if correlated else "") for looks, correlated in laws]
    print(f"| dB / SSIM, {data.num_images('test')} scenes | {' | '.join(titles)} | MoR, L = 1 | s/scene |")
    print("|---" * (len(laws) + 3) + "|")
    tables = {name: [torch.tensor(cell).double() for cell in cells] for name, cells in rows.items()}
    for name, found in tables.items():
        spread = [f" +- {c[:, 0].std():.2f}" if len(c) > 1 else "" for c in found]
        texts = [f"{c[:, 0].mean():.2f}{s} / {c[:, 1].mean():.3f}" for c, s in zip(found, spread, strict=True)]
        print(f"| {name} | {' | '.join(texts)} | {found[0][:, 2].mean():.2f} | {found[0][:, 3].mean():.2f} |")
    if unseen:
        most = max(range(len(laws)), key=lambda number: laws[number][0])
        print(f"\n| dB, {titles[0]} / {titles[most]} | {' | '.join(family.__name__ for family in FAMILIES)} |")
        print("|---" * (len(FAMILIES) + 1) + "|")
        for name, found in tables.items():
            pairs = zip(found[0][:, 4:].mean(0), found[most][:, 4:].mean(0), strict=True)
            print(f"| {name} | {' | '.join(f'{few:.2f} / {many:.2f}' for few, many in pairs)} |")
    if real:
        print()
        print_real(opened[0][0], data.batch("test", torch.arange(1)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--unseen", action="store_true")
    parser.add_argument("--real", action="store_true")
    main(**vars(parser.parse_args()))
