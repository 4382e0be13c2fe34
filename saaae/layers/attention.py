"""Self-attention over the positions of a feature map: whole, in windows, along axes, or linear in their number."""

import torch
from torch import Tensor, nn
from torch.nn.functional import elu, pad, scaled_dot_product_attention

from saaae.errors import UserError
from saaae.ranges import PositiveInt

LARGE = 32 * 32
"""Positions beyond which the whole attention matrix is refused unless asked for."""


class SelfAttention(nn.Module):
    """Single-head self-attention over positions (Vaswani et al. 2017, eq. 1; on images, Zhang et al. 2019).

    Args:
        channels: Channels of the features.
        head_dim: Size of queries and keys.
    """

    def __init__(self, channels: int, head_dim: int) -> None:
        super().__init__()
        self.query = nn.Linear(channels, head_dim)
        self.key = nn.Linear(channels, head_dim)
        self.value = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """Attended values (B, N, C) of tokens (B, N, C); the (N, N) matrix is never stored."""
        q, k, v = self.query(tokens), self.key(tokens), self.value(tokens)
        return scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]

    def log_weights(self, tokens: Tensor) -> Tensor:
        """Log of the attention matrix (B, N, N), finite where the matrix itself would underflow."""
        return log_attention(self.query(tokens), self.key(tokens))

    def weights(self, tokens: Tensor) -> Tensor:
        """The attention matrix (B, N, N) that `forward` applies; every row sums to 1."""
        return torch.exp(self.log_weights(tokens))


def log_attention(q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
    """Log softmax over keys (..., N, M) of queries (..., N, d) and keys (..., M, d); `mask` is added to the scores."""
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    return torch.log_softmax(scores if mask is None else scores + mask, dim=-1)


def fused_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention over the last two axes (..., N, d) that never stores its matrix: the fused kernel wants four axes."""
    flat_q, flat_k, flat_v = (t.reshape(-1, 1, *t.shape[-2:]).contiguous() for t in (q, k, v))
    return scaled_dot_product_attention(flat_q, flat_k, flat_v, attn_mask=mask).view(q.shape)


def relative(heat: Tensor) -> Tensor:
    """Non-negative maps (B, 1, H, W) as shares of each one's maximum."""
    return heat / heat.amax((2, 3), keepdim=True).clamp_min(1e-12)


class AttentionLayer(nn.Module):
    """Base of the attention layers: features (B, C, H, W) to features of the same shape, and weights for pictures."""

    def check_size(self, size: int) -> None:
        """Checks maps of `size` x `size` positions.

        Raises:
            UserError: If they are too many for the layer.
        """

    def weights(self, x: Tensor) -> Tensor:
        """The weights that `forward` applies to features (B, C, H, W)."""
        raise NotImplementedError

    def heat_map(self, x: Tensor) -> Tensor | None:
        """Attention received (B, 1, H, W), 1 at each image's strongest position; None if it has no positions."""
        return None

    def channel_gates(self, x: Tensor) -> Tensor | None:
        """Factor on each channel (B, C); None if the layer has no channel gates."""
        return None


class PositionAttention(AttentionLayer):
    """Base of the multi-head self-attentions: x + gain * projection(attend(q, k, v)), with a gain that starts at 0.

    Args:
        channels: Channels in and out.
        num_heads: Number of heads.

    Raises:
        UserError: If the heads do not divide the channels.
    """

    def __init__(self, channels: int, *, num_heads: PositiveInt) -> None:
        super().__init__()
        if channels % num_heads:
            raise UserError(f"attention.layer.num_heads={num_heads}: expected a divisor of the {channels} channels")
        self.num_heads = num_heads
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.project = nn.Conv2d(channels, channels, 1)
        self.gain = nn.Parameter(torch.zeros(()))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attended values, all (B, heads, H, W, d)."""
        raise NotImplementedError

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, heads, H, W, d) of features (B, C, H, W)."""
        batch, channels, height, width = x.shape
        shape = (batch, 3, self.num_heads, channels // self.num_heads, height, width)
        q, k, v = self.to_qkv(x).view(shape).permute(1, 0, 2, 4, 5, 3)
        return q, k, v

    def heat_map(self, x: Tensor) -> Tensor | None:
        """Attention received, over all heads and queries; None on maps whose matrix is too large to show."""
        if x.shape[2] * x.shape[3] > LARGE:
            return None
        return relative(self.weights(x).sum((1, 2)).view(len(x), 1, *x.shape[2:]))

    def forward(self, x: Tensor) -> Tensor:
        attended = self.attend(*self.qkv(x)).permute(0, 1, 4, 2, 3).reshape(x.shape)
        return x + self.gain * self.project(attended)


class FullAttention(PositionAttention):
    """Every position attends to every one (Vaswani et al. 2017): the matrix grows with the square of their number.

    Args:
        channels: Channels in and out.
        num_heads: Number of heads.
        allow_large: Accept more than 32x32 positions.
    """

    def __init__(self, channels: int, *, num_heads: PositiveInt, allow_large: bool) -> None:
        super().__init__(channels, num_heads=num_heads)
        self.allow_large = allow_large

    def check_size(self, size: int) -> None:
        """Refuses more than 32x32 positions, unless they are allowed."""
        if size * size > LARGE and not self.allow_large:
            raise UserError(
                f"attention=self: a {size**2} x {size**2} matrix for {size}x{size} positions; expected at most 32x32, "
                "or attention=self_local, self_axial or self_linear, or attention.layer.allow_large=true"
            )

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """By the fused kernel: the matrix is never stored."""
        return fused_attention(*(t.flatten(2, 3) for t in (q, k, v))).view(q.shape)

    def weights(self, x: Tensor) -> Tensor:
        """The attention matrix (B, heads, H*W, H*W)."""
        q, k, _ = self.qkv(x)
        return torch.exp(log_attention(q.flatten(2, 3), k.flatten(2, 3)))


class LocalAttention(PositionAttention):
    """Positions attend within windows that do not overlap (Liu et al. 2021, without shifts).

    Args:
        channels: Channels in and out.
        num_heads: Number of heads.
        window: Side of a window; the map is padded to whole ones, and nothing attends to the padding.
    """

    def __init__(self, channels: int, *, num_heads: PositiveInt, window: PositiveInt) -> None:
        super().__init__(channels, num_heads=num_heads)
        self.window = window

    def windows(self, t: Tensor) -> Tensor:
        """(B, heads, H, W, d) to (B, heads, windows, window^2, d)."""
        w, (height, width) = self.window, t.shape[2:4]
        t = pad(t, (0, 0, 0, -width % w, 0, -height % w))
        t = t.unflatten(3, (-1, w)).unflatten(2, (-1, w)).transpose(3, 4)
        return t.flatten(4, 5).flatten(2, 3)

    def mask(self, q: Tensor) -> Tensor | None:
        """Minus infinity on keys that are padding (windows, 1, window^2); None where there is none."""
        height, width = q.shape[2:4]
        if height % self.window == 0 and width % self.window == 0:
            return None
        inside = self.windows(torch.ones(1, 1, height, width, 1, device=q.device))[0, 0, :, :, 0]
        return torch.where(inside > 0, 0.0, float("-inf")).to(q.dtype)[:, None]

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """By the fused kernel in each window."""
        batch, heads, height, width, _ = q.shape
        mask = self.mask(q)
        mask = None if mask is None else mask.repeat(batch * heads, 1, 1)[:, None]
        attended = fused_attention(self.windows(q), self.windows(k), self.windows(v), mask)
        return self.unwindow(attended, height, width)

    def unwindow(self, t: Tensor, height: int, width: int) -> Tensor:
        """(B, heads, windows, window^2, d) back to (B, heads, H, W, d), without the padding."""
        w, (batch, heads, *_, d) = self.window, t.shape
        rows, columns = -(-height // w), -(-width // w)
        t = t.view(batch, heads, rows, columns, w, w, d).transpose(3, 4)
        return t.reshape(batch, heads, rows * w, columns * w, d)[:, :, :height, :width]

    def heat_map(self, x: Tensor) -> Tensor | None:
        """Attention received within the windows, over all heads and queries."""
        received = self.weights(x).sum(3)[..., None]
        return relative(self.unwindow(received, *x.shape[2:]).sum(1).permute(0, 3, 1, 2))

    def weights(self, x: Tensor) -> Tensor:
        """The attention matrices of the windows (B, heads, windows, window^2, window^2); rows of padding are 0."""
        q, k, _ = self.qkv(x)
        real = self.windows(torch.ones_like(q[..., :1]))  # 0 for queries that are padding
        return torch.exp(log_attention(self.windows(q), self.windows(k), self.mask(q))) * real


class AxialAttention(PositionAttention):
    """Positions attend along their row and along their column, and both are added (Ho et al. 2019)."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """By the fused kernel along each axis."""
        along_rows = fused_attention(q, k, v)
        along_columns = fused_attention(*(t.transpose(2, 3) for t in (q, k, v))).transpose(2, 3)
        return along_rows + along_columns

    def weights(self, x: Tensor) -> Tensor:
        """How much each position attends to each other one (B, heads, H*W, H*W): rows sum to 2, one for each axis."""
        q, k, _ = self.qkv(x)
        batch, heads, height, width, _ = q.shape
        rows = torch.exp(log_attention(q, k))  # (B, heads, H, W, W)
        columns = torch.exp(log_attention(q.transpose(2, 3), k.transpose(2, 3)))  # (B, heads, W, H, H)
        full = q.new_zeros(batch, heads, height, width, height, width)
        i, j = torch.arange(height, device=q.device), torch.arange(width, device=q.device)
        full[:, :, i, :, i, :] += rows.permute(2, 0, 1, 3, 4)
        full[:, :, :, j, :, j] += columns.permute(2, 0, 1, 3, 4)
        return full.flatten(4, 5).flatten(2, 3)


class LinearAttention(PositionAttention):
    """Attention with the kernel elu + 1 (Katharopoulos et al. 2020, eq. 4 and 7): linear in the number of positions.

    Deviation: sums are in float32 under any precision.
    """

    @staticmethod
    def feature(t: Tensor) -> Tensor:
        """Positive features of queries or keys (B, heads, N, d)."""
        return elu(t.flatten(2, 3).float()) + (1.0 + 1e-6)  # never 0: a row of zeros would be 0/0

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Keys and values are summed up once, (B, heads, d, d): no matrix over positions exists."""
        with torch.autocast(q.device.type, enabled=False):
            q_feature, k_feature, values = self.feature(q), self.feature(k), v.flatten(2, 3).float()
            summary = k_feature.transpose(-1, -2) @ values
            normal = q_feature @ k_feature.sum(2)[..., None]
            return ((q_feature @ summary) / normal).view(q.shape).to(v.dtype)

    def weights(self, x: Tensor) -> Tensor:
        """The implied matrix (B, heads, H*W, H*W), for pictures; every row sums to 1."""
        q, k, _ = self.qkv(x)
        scores = self.feature(q) @ self.feature(k).transpose(-1, -2)
        return scores / scores.sum(-1, keepdim=True)
