"""Deblurring of digits, 28 -> 14 -> 28, against bicubic and ridge regression: python benchmarks/deblurring.py [run ...]

All are scored on the 10,000 test digits with the metrics of the runs (SSIM with an 11x11 Gaussian window, mean PSNR for
peak 1) against the sharp digits. Ridge regression maps the 14x14 digit and a constant to the sharp digit; it is fitted
on the training digits. Runs are folders of `experiment=denoising_vae` or `denoising_skip`; their numbers are read from
metrics.json. The digits are read from $SAAAE_DATA_DIR/mnist (or ./data/mnist).
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch.nn.functional import interpolate

from saaae.config.folder import config_folder
from saaae.config.resolvers import register_resolvers
from saaae.metrics.image import reconstruction_quality


def main(runs, overrides=()):
    """Prints the table."""
    register_resolvers()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        data = instantiate(compose("train", ["data=mnist", "corruption=blur", *overrides]).data, _convert_="all")
    data.setup()
    train, test = (data.batch(split, torch.arange(data.num_images(split))) for split in ("train", "test"))

    def small(x):
        return interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=False)

    def up(mode):
        return interpolate(small(test.target), size=28, mode=mode, align_corners=None if mode == "nearest" else False)

    def regressors(x):
        return torch.cat([small(x).flatten(1), torch.ones(len(x), 1)], 1).double()

    a, b = regressors(train.target), train.target.flatten(1).double()
    weight = torch.linalg.solve(a.T @ a + 1.0 * torch.eye(a.shape[1], dtype=a.dtype), a.T @ b)
    restored = {
        "nearest": up("nearest"),
        "bilinear: the blurred input itself": test.input,
        "bicubic": up("bicubic"),
        "ridge regression": (regressors(test.target) @ weight).float().view_as(test.target),
    }
    print("| restorer | PSNR dB | SSIM |\n|---|---|---|")
    for name, x in restored.items():
        parts = [reconstruction_quality(*pair) for pair in zip(x.split(1000), test.target.split(1000), strict=True)]
        found = {key: torch.cat([part[key] for part in parts]).mean() for key in ("psnr", "ssim")}
        print(f"| {name} | {found['psnr']:.2f} | {found['ssim']:.4f} |")
    for run in runs:
        found = json.loads((Path(run) / "metrics.json").read_text())["test"]
        print(f"| {run} | {found['psnr']:.2f} | {found['ssim']:.4f} |")


if __name__ == "__main__":
    main(sys.argv[1:])
