"""Despeckling of Set12 and BSD68 under simulated speckle: python benchmarks/published_speckle.py [--clip] [<model>]

A pixel v of a gray 8-bit image is the amplitude v / 255. Its intensity, the square, is multiplied by white Gamma
speckle of mean 1 and variance 1/L, and the root of the product is the noisy amplitude: one draw for each image, a
function of its number. It is neither rounded nor clipped, unless --clip makes it an 8-bit image again. Results are
clipped to [0, 1]; PSNR is for the peak 1 (255 of 8 bits), PSNR and SSIM are means over the images of a set.

The Frost filter knows L; its window and damping are those with the best PSNR on 12 images of BSD400. The model, by
default that of the package, sees an image whole, as `saaae despeckle full_scale=255` does; `flips` is the mean of eight
mirrored and turned passes. The images are below SAAAE_DATA_DIR, in clean/set12, clean/bsd68 and clean/bsd400.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
from despeckling import FILTERS
from PIL import Image
from torch.nn.functional import pad

from saaae.cli.predict import DESPECKLER
from saaae.data.speckle_model import speckle_amplitude
from saaae.inference.model import load_model
from saaae.inference.tiled_model import Options, TiledModel
from saaae.metrics.image import reconstruction_quality
from saaae.rng import IndexedRandom

LOOKS = (1, 2, 4, 8, 10)
TUNING = 12
"""Images of BSD400 on which the filter is tuned."""


def read(folder, count=None):
    """Amplitudes (1, 1, H, W) of the images of a folder."""
    root = Path(os.environ.get("SAAAE_DATA_DIR", "data")) / "clean" / folder
    paths = sorted(root.glob("*.png"))[:count]
    if not paths:
        sys.exit(f"{root}: no images")
    pixels = [np.asarray(Image.open(path).convert("L"), np.float32) for path in paths]
    return [torch.from_numpy(each / 255)[None, None] for each in pixels]


def speckled(images, looks, clip):
    """The noisy images."""
    noisy = [
        speckle_amplitude(image, looks, 0.0, IndexedRandom(looks, torch.tensor([number])))
        for number, image in enumerate(images)
    ]
    return [(255 * y).round().clamp(0, 255) / 255 for y in noisy] if clip else noisy


def score(restore, noisy, images):
    """Mean PSNR and SSIM of a function of amplitudes."""
    with torch.inference_mode():
        found = [reconstruction_quality(restore(y), x) for y, x in zip(noisy, images, strict=True)]
    return tuple(float(torch.cat([each[name] for each in found]).mean()) for name in ("psnr", "ssim"))


def with_filter(parameters, looks):
    """The Frost filter as a function of amplitudes."""
    return lambda y: FILTERS["Frost"][0](y**2, looks, *parameters).sqrt()


def with_model(path, flips):
    """A model as a function of amplitudes, of any size."""
    model = TiledModel(load_model(path), Options(flips=flips))
    stride = model.model.stride

    def restore(y):
        height, width = y.shape[-2:]
        whole = pad(y, [0, -width % stride, 0, -height % stride], mode="replicate")
        return model.run(whole)[0][..., :height, :width]

    return restore


def main(model, clip=False):
    """Prints a table for each set."""
    tuning = read("bsd400", TUNING)
    filters = {}
    for looks in LOOKS:
        noisy = speckled(tuning, looks, clip)
        best = max(FILTERS["Frost"][1], key=lambda chosen: score(with_filter(chosen, looks), noisy, tuning)[0])
        filters[looks] = with_filter(best, looks)
    models = {"model": with_model(model, False), "model, flips": with_model(model, True)}
    for name in ("set12", "bsd68"):
        images = read(name)
        rows: dict[str, list[Any]] = {"noisy": [], "Frost": [], **{each: [] for each in models}}
        for looks in LOOKS:
            restorers = {"noisy": lambda y: y, "Frost": filters[looks], **models}
            noisy = speckled(images, looks, clip)
            for row, restore in restorers.items():
                rows[row].append(score(restore, noisy, images))
        print(f"\n| {name}, {len(images)} images, dB / SSIM | {' | '.join(f'L = {looks}' for looks in LOOKS)} |")
        print("|---" * (len(LOOKS) + 1) + "|")
        for row, found in rows.items():
            print(f"| {row} | {' | '.join(f'{psnr:.2f} / {ssim:.3f}' for psnr, ssim in found)} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, default=DESPECKLER)
    parser.add_argument("--clip", action="store_true")
    main(**vars(parser.parse_args()))
