"""Attention that scales features by a gate: over channels, over positions, or both.

Deviation from all sources: the gate is 2 sigmoid(logits) and its last layer starts at zero, so a fresh layer is the
exact identity; a plain sigmoid(0) = 1/2 would halve the features.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from saaae.layers.attention import AttentionLayer, relative
from saaae.ranges import PositiveInt


class Gate(AttentionLayer):
    """Base: features times their gate."""

    def logits(self, x: Tensor) -> Tensor:
        """Logits that broadcast over features (B, C, H, W)."""
        raise NotImplementedError

    def weights(self, x: Tensor) -> Tensor:
        """The gate in (0, 2), in the shape of the logits; 1 leaves the features unchanged."""
        return 2.0 * torch.sigmoid(self.logits(x))

    def channel_gates(self, x: Tensor) -> Tensor | None:
        """The gates over channels (B, C); None if they are over positions."""
        weights = self.weights(x)
        return weights.flatten(1) if weights.shape[2:] == (1, 1) else None

    def heat_map(self, x: Tensor) -> Tensor | None:
        """The gates over positions; None if they are over channels alone."""
        weights = self.weights(x)
        return None if weights.shape[2:] == (1, 1) else relative(weights)

    def forward(self, x: Tensor) -> Tensor:
        """Gated features (B, C, H, W)."""
        return x * self.weights(x)


class SqueezeExcitation(Gate):
    """One gate per channel from its average over positions (Hu et al. 2018, eq. 3).

    Args:
        channels: Channels in and out.
        reduction: How much narrower the hidden layer is; layers of fewer than 64 channels are narrowed by 4 at most.
        pooling: `avg`, or `avg_max`: also from the maximum, through the same layers (Woo et al. 2018, eq. 2).
    """

    def __init__(self, channels: int, *, reduction: PositiveInt, pooling: Literal["avg", "avg_max"]) -> None:
        super().__init__()
        hidden = max(1, channels // (reduction if channels >= 64 else min(reduction, 4)))
        self.squeeze = nn.Conv2d(channels, hidden, 1, bias=False)
        self.excite = nn.Conv2d(hidden, channels, 1, bias=False)
        self.use_max = pooling == "avg_max"
        nn.init.zeros_(self.excite.weight)

    def logits(self, x: Tensor) -> Tensor:
        pooled = self.excite(torch.relu(self.squeeze(x.mean((2, 3), keepdim=True))))
        if self.use_max:
            pooled = pooled + self.excite(torch.relu(self.squeeze(x.amax((2, 3), keepdim=True))))
        return pooled


class EfficientChannelAttention(Gate):
    """One gate a channel from its neighbours' averages, by a convolution over channels (Wang et al. 2020, eq. 12).

    Args:
        channels: Channels in and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        size = int(abs(math.log2(channels) / 2 + 0.5))
        size += 1 - size % 2
        self.convolution = nn.Conv1d(1, 1, size, padding=size // 2, bias=False)
        nn.init.zeros_(self.convolution.weight)

    def logits(self, x: Tensor) -> Tensor:
        return self.convolution(x.mean((2, 3))[:, None])[:, 0, :, None, None]


class SpatialAttention(Gate):
    """One gate per position from the mean and maximum over channels (Woo et al. 2018, eq. 3).

    Args:
        channels: Channels in and out.
        kernel_size: Of the convolution.
    """

    def __init__(self, channels: int, *, kernel_size: Literal[3, 7]) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)
        nn.init.zeros_(self.convolution.weight)

    def logits(self, x: Tensor) -> Tensor:
        return self.convolution(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1))


class CBAM(AttentionLayer):
    """Channel gates, then position gates (Woo et al. 2018).

    Args:
        channels: Channels in and out.
        reduction: Of the channel gates.
        kernel_size: Of the position gates.
    """

    def __init__(self, channels: int, *, reduction: PositiveInt, kernel_size: Literal[3, 7]) -> None:
        super().__init__()
        self.channel = SqueezeExcitation(channels, reduction=reduction, pooling="avg_max")
        self.spatial = SpatialAttention(channels, kernel_size=kernel_size)

    def weights(self, x: Tensor) -> Tensor:
        """The product of both gates (B, C, H, W), in (0, 4)."""
        channel = self.channel.weights(x)
        return channel * self.spatial.weights(x * channel)

    def heat_map(self, x: Tensor) -> Tensor | None:
        return self.spatial.heat_map(self.channel(x))

    def forward(self, x: Tensor) -> Tensor:
        """Gated features (B, C, H, W)."""
        return self.spatial(self.channel(x))


class CBAMResidualBlock(AttentionLayer):
    """A residual block whose branch passes CBAM before the addition (Woo et al. 2018, fig. 3).

    The branch starts at zero, so a fresh block is the identity.

    Args:
        channels: Channels in and out.
        reduction: Of the channel gates.
        kernel_size: Of the position gates.
    """

    def __init__(self, channels: int, *, reduction: PositiveInt, kernel_size: Literal[3, 7]) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1)
        )
        self.cbam = CBAM(channels, reduction=reduction, kernel_size=kernel_size)
        last = self.body[-1]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def weights(self, x: Tensor) -> Tensor:
        """The gates on the branch (B, C, H, W)."""
        return self.cbam.weights(self.body(x))

    def heat_map(self, x: Tensor) -> Tensor | None:
        return self.cbam.heat_map(self.body(x))

    def forward(self, x: Tensor) -> Tensor:
        """Refined features (B, C, H, W)."""
        return x + self.cbam(self.body(x))
