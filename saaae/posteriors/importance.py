"""The importance map of SAAAE: raw scores by self-attention, normalisation to [0, cap], and the control maps."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from saaae.layers.attention import SelfAttention
from saaae.rng import RandomSource

RELATIVE_GUARD = 1e-3  # a map whose range is below this share of its mean magnitude is treated as constant
ABSOLUTE_GUARD = 1e-6


def tokens_of(features: Tensor) -> Tensor:
    """Features (B, C, H, W) as tokens (B, H*W, C)."""
    return features.flatten(2).transpose(1, 2)


class ProjectionScore(nn.Module):
    """r = Linear(h + SelfAttention(h)): per position for a map, of the mean over positions for a vector.

    Args:
        feature_shape: (C, H, W) of the features.
        latent_shape: (D,) or (C', H, W).
    """

    def __init__(self, feature_shape: Sequence[int], latent_shape: Sequence[int]) -> None:
        super().__init__()
        channels = feature_shape[0]
        self.vector = len(latent_shape) == 1
        self.attention = SelfAttention(channels, channels)
        self.project = nn.Linear(channels, latent_shape[0] if self.vector else 1)

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, C, H, W) to raw scores (B, D) or (B, H*W)."""
        h = tokens_of(features)
        h = h + self.attention(h)
        return self.project(h.mean(1)) if self.vector else self.project(h).squeeze(-1)


class _PositionScore(nn.Module):
    """Base of the scores that attention defines per position; a vector gets them through a linear layer."""

    def __init__(self, feature_shape: Sequence[int], latent_shape: Sequence[int]) -> None:
        super().__init__()
        channels = feature_shape[0]
        self.attention = SelfAttention(channels, channels)
        vector = len(latent_shape) == 1
        self.project = nn.Linear(math.prod(feature_shape[1:]), latent_shape[0]) if vector else nn.Identity()

    def score(self, tokens: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, C, H, W) to raw scores (B, D) or (B, H*W)."""
        return self.project(self.score(tokens_of(features)))


class LogColumnSumScore(_PositionScore):
    """Attention received by a position: log of N times the column mean of the attention matrix."""

    def score(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, C) to (B, N)."""
        return torch.logsumexp(self.attention.log_weights(tokens), 1)  # log(N * mean): the sum over queries


class NormScore(_PositionScore):
    """Euclidean norm of the attended features."""

    def score(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, C) to (B, N)."""
        return torch.linalg.vector_norm(self.attention(tokens), dim=-1)


SCORES: dict[str, type[nn.Module]] = {
    "projection": ProjectionScore,
    "log_column_sum": LogColumnSumScore,
    "norm": NormScore,
}


def guarded_range(raw: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """(raw - low) / (high - low), with a soft guard relative to the mean magnitude.

    Deviation: the original divides by max - min alone, which is 0/0 on a constant map. With the guard a constant map
    gives 0, a nearly constant one is not magnified, and a gradient survives in both.
    """
    guard = RELATIVE_GUARD * raw.abs().mean(-1, keepdim=True) + ABSOLUTE_GUARD
    return (raw - low) / (high - low + guard)


def per_image(raw: Tensor) -> Tensor:
    """Min-max over each image's own scores."""
    return guarded_range(raw, raw.amin(-1, keepdim=True), raw.amax(-1, keepdim=True))


def per_batch(raw: Tensor) -> Tensor:
    """Min-max over the whole batch, the original form: couples an image's latent to its neighbours."""
    return guarded_range(raw, raw.amin(), raw.amax())


def per_image_quantile(raw: Tensor) -> Tensor:
    """Range from the 5th to the 95th percentile, clipped: one outlier does not flatten the rest.

    A map that is exactly constant gets no gradient here.
    """
    low, high = (torch.quantile(raw, q, dim=-1, keepdim=True) for q in (0.05, 0.95))
    return guarded_range(raw, low, high).clamp(0, 1)


def zscore_sigmoid(raw: Tensor) -> Tensor:
    """Sigmoid of the standardised scores: no forced extremes; a constant map gives 1/2 everywhere."""
    std = raw.std(-1, keepdim=True, unbiased=False)
    guard = RELATIVE_GUARD * raw.abs().mean(-1, keepdim=True) + ABSOLUTE_GUARD
    return torch.sigmoid((raw - raw.mean(-1, keepdim=True)) / (std + guard))


NORMALIZATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "per_image": per_image,
    "per_batch": per_batch,
    "per_image_quantile": per_image_quantile,
    "zscore_sigmoid": zscore_sigmoid,
}


def is_flat(raw: Tensor) -> Tensor:
    """Images (B,) whose scores are constant up to the guard, as 0. or 1."""
    guard = RELATIVE_GUARD * raw.abs().mean(-1) + ABSOLUTE_GUARD
    return (raw.amax(-1) - raw.amin(-1) < guard).float()


def _shuffle_positions(anchor: Tensor, cap: float, rng: RandomSource) -> Tensor:
    return anchor.gather(1, rng.uniform(anchor).argsort(1))


def _shuffle_batch(anchor: Tensor, cap: float, rng: RandomSource) -> Tensor:
    # The previous image's map: an image alone in its batch keeps its own.
    return anchor.roll(1, 0)


def _invert(anchor: Tensor, cap: float, rng: RandomSource) -> Tensor:
    return cap - anchor


def _silence(anchor: Tensor, cap: float, rng: RandomSource) -> Tensor:
    return 0.0 * anchor  # stays in the graph: the same work and the same parameters as the real map


def _keep(anchor: Tensor, cap: float, rng: RandomSource) -> Tensor:
    return anchor


TRANSFORMS: dict[str, Callable[[Tensor, float, RandomSource], Tensor]] = {
    "attention": _keep,
    "random": _keep,
    "shuffled_positions": _shuffle_positions,
    "shuffled_batch": _shuffle_batch,
    "inverted": _invert,
    "unused": _silence,
}
"""What each control does to the anchor (B, K) before it scales the noise."""
