"""Priors with parameters: one for all images, and one of a coarse latent w."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool1d, interpolate

from saaae.posteriors.gaussian import DiagonalGaussian
from saaae.rng import RandomSource

SCALE = 3.0
"""Bound on the log scale of a prior: log s = SCALE tanh(l / SCALE)."""
SMALL = 0.1
"""Factor on the last initial weights of the prior's network, which so begins near N(0, I)."""


def _resample(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Maps (B, C, H, W) to (B, C, h, w) by matrices (H, h) and (W, w) in float32; torch's is not deterministic."""
    with torch.autocast(x.device.type, enabled=False):
        return torch.einsum("bchw,hi,wj->bcij", x.float(), rows, columns)


def pooled(x: Tensor, rows: int, columns: int) -> Tensor:
    """Average pool of maps (B, C, H, W) to (B, C, rows, columns)."""

    def matrix(size: int, cells: int) -> Tensor:
        return adaptive_avg_pool1d(torch.eye(size, device=x.device)[None], cells)[0]

    return _resample(x, matrix(x.shape[2], rows), matrix(x.shape[3], columns))


def stretched(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear interpolation of maps (B, C, h, w) to (B, C, *size)."""

    def matrix(cells: int, size: int) -> Tensor:
        return interpolate(torch.eye(cells, device=x.device)[None], size=size, mode="linear")[0]

    return _resample(x, matrix(x.shape[2], size[0]), matrix(x.shape[3], size[1]))


def prior_of(values: Tensor) -> DiagonalGaussian:
    """N(m, s^2) of values (B, 2 C, ...), the concatenated m and l, with log s = 3 tanh(l / 3)."""
    mean, scale = values.chunk(2, 1)
    return DiagonalGaussian(mean, 2.0 * SCALE * torch.tanh(scale / SCALE))


class LearnedPrior(nn.Module):
    """p(z) = N(m, s^2): a trained mean and scale of each cell and channel, the same for all images.

    Args:
        latent_shape: (D,) or (C, H, W).
    """

    name, is_standard = "the learned\nprior", False

    def __init__(self, latent_shape: Sequence[int]) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(1, 2 * latent_shape[0], *latent_shape[1:]))

    def over(self, like: Tensor) -> DiagonalGaussian:
        """p(z) in the shape of `like`; a map of another size than in training gets interpolated values."""
        same = like.shape[2:] == self.values.shape[2:]
        prior = prior_of(self.values if same else stretched(self.values, like.shape[2:]))
        return DiagonalGaussian(prior.mean.expand_as(like), prior.logvar.expand_as(like))

    def sample(self, like: Tensor, rng: RandomSource) -> Tensor:
        """Latents in the shape of `like` (N, *latent_shape)."""
        return self.over(like).rsample(rng)

    def mean(self, like: Tensor) -> Tensor:
        """m in the shape of `like` (N, *latent_shape)."""
        return self.over(like).mean


class HyperPrior(nn.Module):
    """p(w) = N(0, I) and p(z|w) = N(m(w), s(w)^2), by a network that begins near N(0, I).

    Args:
        latent_shape: (D,) or (C, H, W).
        w_shape: (K,), or (K, h, w) of a map, which is stretched to the size of the latent.
        hidden: Width of the network.
        couple_noise: Multiply the posterior's standard deviation by s(w).
        decoder_sees_w: Append w to what the decoder takes.
    """

    name, is_standard = "p(w) p(z|w)", False

    def __init__(
        self, latent_shape: Sequence[int], w_shape: Sequence[int], hidden: int, couple_noise: bool, decoder_sees_w: bool
    ) -> None:
        super().__init__()
        self.w_shape, self.couple_noise, self.decoder_sees_w = tuple(w_shape), couple_noise, decoder_sees_w
        outputs, is_map = 2 * latent_shape[0], len(latent_shape) == 3
        first = nn.Conv2d(w_shape[0], hidden, 3, padding=1) if is_map else nn.Linear(w_shape[0], hidden)
        last = nn.Conv2d(hidden, outputs, 1) if is_map else nn.Linear(hidden, outputs)
        with torch.no_grad():
            for parameter, factor in zip(last.parameters(), (SMALL, 0.0), strict=True):
                parameter.mul_(factor)
        self.network = nn.Sequential(first, nn.SiLU(), last)

    def given(self, w: Tensor, size: Sequence[int]) -> DiagonalGaussian:
        """p(z|w) of w (B, *w_shape), over latents whose maps have a size (H, W); float32 under any precision."""
        with torch.autocast(w.device.type, enabled=False):
            return prior_of(self.network(stretched(w, size) if size else w))

    def latents(self, z: Tensor, w: Tensor) -> Tensor:
        """What the decoder takes of z (B, C, ...) and w (B, *w_shape)."""
        if not self.decoder_sees_w:
            return z
        return torch.cat([z, stretched(w, z.shape[2:]) if z.dim() == 4 else w], 1)

    def sample(self, like: Tensor, rng: RandomSource) -> Tensor:
        """Latents as many and as large as `like` (N, *latent_shape): w ~ N(0, I), then z ~ p(z|w)."""
        w = rng.normal(like.new_empty(len(like), *self.w_shape))
        return self.latents(self.given(w, like.shape[2:]).rsample(rng), w)

    def mean(self, like: Tensor) -> Tensor:
        """m(0), as many and as large as `like` (N, *latent_shape)."""
        w = like.new_zeros(len(like), *self.w_shape)
        return self.latents(self.given(w, like.shape[2:]).mean, w)
