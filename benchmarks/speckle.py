"""Simulated speckle against theory, as a Markdown table: python benchmarks/speckle.py

Intensity speckle of L looks is Gamma(L, 1/L): mean 1, coefficient of variation (CV) 1/sqrt(L). Its logarithm has the
mean psi(L) - ln L (Fisher-Tippett). Neighbouring intensities have the requested
correlation. Each cell: measured / theory.
"""

import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from saaae.data.speckle_model import speckle_amplitude
from saaae.rng import IndexedRandom


def main(fields=128, size=256):
    """Prints the table; each row is measured on `fields` square fields with sides of `size` pixels."""
    print("| looks | correlation | mean | CV | mean of log | lag-1 correlation |\n|---|---|---|---|---|---|")
    for correlation in (0.0, 0.33, 0.6):
        for looks in (1, 2, 2.5, 4, 10):
            rng = IndexedRandom(0, torch.arange(fields))
            s = (speckle_amplitude(torch.ones(fields, 1, size, size), looks, correlation, rng) ** 2).double()
            shape = torch.tensor(float(looks), dtype=torch.float64)
            bias = float(torch.digamma(shape)) - math.log(looks)
            normal = (s - s.mean()) / s.std()
            lag = ((normal * normal.roll(1, 2)).mean() + (normal * normal.roll(1, 3)).mean()) / 2
            print(
                f"| {looks} | {correlation} | {s.mean():.4f} / 1 | {s.std() / s.mean():.4f} / {looks**-0.5:.4f} "
                f"| {s.log().mean():.4f} / {bias:.4f} | {lag:.4f} / {correlation} |"
            )


if __name__ == "__main__":
    main()
