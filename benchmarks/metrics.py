"""Largest difference of each metric from an independent float64 reference, as Markdown: python benchmarks/metrics.py

Uses images of several sizes and 20 seeds. Differences are absolute, but relative for values above 1 (decibels, looks,
nats).
"""

import math
import sys
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import norm
from torch.distributions import Bernoulli, MultivariateNormal, Normal, kl_divergence

from saaae.metrics import ranking
from saaae.metrics.image import reconstruction_quality
from saaae.metrics.pixel_detection import PixelDetection
from saaae.metrics.rate import CodeModel, quantise
from saaae.metrics.speckle import speckle_quality
from saaae.objectives.elbo import bits_per_dimension
from saaae.objectives.likelihood import Bernoulli as OurBernoulli
from saaae.posteriors.covariance import CholeskyGaussian
from saaae.posteriors.gaussian import DiagonalGaussian
from tests.metrics import references_anomaly, references_image, references_speckle

SEEDS = range(20)


def image_metrics(seed):
    """Name, reference, measured and expected values (N,) of the image metrics."""
    g = torch.Generator().manual_seed(seed)
    size = (28, 64, 128, 192)[seed % 4]
    x = torch.rand(3, 1, size, size, generator=g)
    x_hat = (x + 0.2 * torch.rand(1, generator=g) * torch.randn(x.shape, generator=g)).clamp(0, 1)
    sources = {"ssim": "float64, scipy.ndimage", "psnr": "scikit-image", "mse": "scikit-image"}
    for name, value in reconstruction_quality(x_hat, x, multiscale=True).items():
        pairs = zip(x_hat[:, 0].double().numpy(), x[:, 0].double().numpy(), strict=True)
        expected = [getattr(references_image, name)(*pair) for pair in pairs]
        yield name, sources.get(name, "float64, scipy.ndimage"), value, expected


def radar_metrics(seed):
    """Name, reference, measured and expected values of the radar metrics."""
    torch.manual_seed(seed)
    clean = torch.rand(3, 1, 8, 8).repeat_interleave(8, 2).repeat_interleave(8, 3) * 0.8 + 0.1
    looks = (1.0, 2.5, 4.0, 10.0)[seed % 4]
    observed = (clean**2 * torch.distributions.Gamma(looks, looks).sample(clean.shape)).sqrt()
    x_hat = (clean + 0.05 * torch.randn_like(clean)).clamp_min(0)
    arrays = [image.double().numpy() for image in (x_hat, observed, clean)]
    expected = references_speckle.speckle_quality(arrays[0], arrays[1], arrays[2])
    for name, value in speckle_quality(x_hat, observed, clean).items():
        yield name, "float64, pixel by pixel", value, expected[name]


def fabric_metrics(seed):
    """Name, reference, measured and expected values of the detection metrics."""
    rng = np.random.default_rng(seed)
    scores, labels = rng.normal(size=500).round(1), rng.integers(0, 2, 500)
    for name in ("auroc", "average_precision", "best_f1"):
        yield (
            f"tile {name}",
            "scikit-learn",
            [getattr(ranking, name)(ranking.counts_of(scores, labels))],
            [getattr(references_anomaly, name)(scores, labels)],
        )
    maps, masks = [], []
    for shape in ((64, 96), (50, 80)):
        mask = np.zeros(shape, np.uint8)
        for y, x in rng.integers(0, min(shape) - 10, (3, 2)):
            mask[y : y + rng.integers(2, 9), x : x + rng.integers(2, 9)] = 1
        maps.append((5 * gaussian_filter(rng.normal(size=shape), 2) + mask * rng.uniform(0, 2)).astype(np.float32))
        masks.append(mask)
    metric = PixelDetection()
    for pair in zip(maps, masks, strict=True):
        metric.update(*map(torch.from_numpy, pair))
    for name, expected in references_anomaly.pixel_detection(maps, masks).items():
        source = "loop over thresholds and regions" if name.startswith("aupro") else "scikit-learn"
        yield name, source, [metric.compute()[name]], [expected]


def bounds(seed):
    """The same for KL, nll and rates: torch.distributions in float64, and Gaussians integrated over the bins."""
    torch.manual_seed(seed)
    mean, logvar = torch.randn(4, 32), torch.randn(4, 32)
    normal = Normal(mean.double(), (0.5 * logvar.double()).exp())
    expected = kl_divergence(normal, Normal(torch.zeros(32).double(), torch.ones(32).double())).sum(1)
    yield "kl (diagonal)", "torch.distributions", DiagonalGaussian(mean, logvar).kl, expected
    factor = torch.randn(4, 6, 6).tril(-1) + torch.diag_embed(torch.rand(4, 6) + 0.1)
    full = MultivariateNormal(mean[:, :6].double(), scale_tril=factor.double())
    prior = MultivariateNormal(torch.zeros(6).double(), torch.eye(6).double())
    yield (
        "kl (full covariance)",
        "torch.distributions",
        CholeskyGaussian(mean[:, :6], factor).kl,
        kl_divergence(full, prior),
    )
    raw, x = torch.randn(4, 1, 28, 28), torch.randint(0, 2, (4, 1, 28, 28)).float()
    nll = -Bernoulli(logits=raw.double()).log_prob(x.double()).flatten(1).sum(1)
    yield "nll (Bernoulli)", "torch.distributions", OurBernoulli(activation="sigmoid").nll(raw, x), nll
    yield (
        "bits_per_dim",
        "closed form",
        [float(bits_per_dimension(-nll.float()[0], 784, True))],
        [float(nll[0]) / 784 / math.log(2)],
    )
    codes = np.random.default_rng(seed).normal([0, 2], [1, 3], (5000, 2))
    model, symbols = CodeModel.fit(quantise(codes, 0.5), 1), quantise(codes, 0.5)
    below, above = (norm.cdf((symbols + shift - model.mean) / model.std) for shift in (-0.5, 0.5))
    bits = 8 * len(model.encode(symbols, np.zeros(len(codes), np.int32)))
    yield "bits of codes", "entropy under the fitted Gaussian", [bits], [-np.log2(above - below).sum()]


def main():
    """Prints the table."""
    torch.set_num_threads(1)
    worst: dict[str, float] = defaultdict(float)
    sources: dict[str, str] = {}
    for metrics in (image_metrics, radar_metrics, fabric_metrics, bounds):
        for seed in SEEDS:
            for name, source, found, expected in metrics(seed):
                found, expected = (np.asarray(values, np.float64) for values in (found, expected))
                difference = np.abs(found - expected) / np.maximum(1, np.abs(expected))
                worst[name], sources[name] = max(worst[name], float(difference.max())), source
    print("| metric | reference | largest difference |\n|---|---|---|")
    for name, value in worst.items():
        print(f"| {name} | {sources[name]} | {value:.1e} |")


if __name__ == "__main__":
    main()
