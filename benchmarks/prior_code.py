"""Bits of quantised latents: with one Gaussian for each value, and given the latent w of an anchored prior.

`python benchmarks/prior_code.py outputs/anchored-prior/anchored-prior-*` prints, for each finished run on generated
data, the bits per test image of the posterior means of z, as `code_steps=` codes them, and those of w and of z given
the quantised w: value by value N(m + s a, (s b)^2), where (m, s) is p(z|w), and a and b are fitted on the validation
images as the mean and the spread of (z - m) / s. Steps are in units of the largest standard deviation of a value. The
numbers are ideal code lengths; the range coder needs 0.1 % more.
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from hydra.utils import instantiate
from scipy.special import ndtr

import saaae
from saaae.evaluation.batches import batches
from saaae.metrics.rate import NARROWEST, quantise
from saaae.runs.folder import RunFolder

STEPS, W_STEPS = (0.25, 0.5, 1.0), (0.5, 1.0, 2.0)


def bits(symbols, mean, std):
    """Bits per image of symbols (N, D) under rounded Gaussians, all in steps; at most 24 for a symbol."""
    distance, std = np.abs(symbols - mean), np.maximum(std, NARROWEST)
    share = ndtr((0.5 - distance) / std) - ndtr((-0.5 - distance) / std)
    return float(-np.log2(np.maximum(share, 2.0**-24)).sum() / len(symbols))


@torch.no_grad()
def main(folders):
    """Prints the table."""
    print("| run | step | z alone | step of w | w | z given w | w and z |\n|" + "---|" * 7)
    for folder in folders:
        model: Any = saaae.load(folder).network
        data = instantiate(RunFolder(Path(folder)).full_config().data, _convert_="all")
        data.setup()
        found = {}
        for split in ("val", "test"):
            parts = batches(model, data, split, torch.arange(data.num_images(split)))
            pairs = [(q.mean, q.q_w.mean) for q in map(model.encode, parts)]
            found[split] = [torch.cat(each) for each in zip(*pairs, strict=True)]
        (z, w), (z_test, w_test) = found["val"], found["test"]
        for step in STEPS:
            size = step * float(z.flatten(1).std(0).max())
            fitted, tested = (quantise(each.flatten(1).double().numpy(), size) for each in (z, z_test))
            alone = bits(tested, fitted.mean(0), fitted.std(0))
            for w_step in W_STEPS:
                w_size = w_step * float(w.flatten(1).std(0).max())
                codes = [torch.round(each / w_size) for each in (w, w_test)]
                priors = [model.posterior.prior.given(each * w_size, model.latent_shape[1:]) for each in codes]
                (m, s), (m_test, s_test) = (
                    [each.flatten(1).double().numpy() / size for each in (p.mean, torch.exp(0.5 * p.logvar))]
                    for p in priors
                )
                own, own_test = (each.flatten(1).double().numpy() for each in codes)
                of_w, ratio = bits(own_test, own.mean(0), own.std(0)), (fitted - m) / s
                of_z = bits(tested, m_test + s_test * ratio.mean(0), s_test * ratio.std(0))
                row = [Path(folder).name, f"{step:g}", f"{alone:.1f}", f"{w_step:g}", f"{of_w:.1f}", f"{of_z:.1f}"]
                print(f"| {' | '.join(row)} | {of_w + of_z:.1f} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
