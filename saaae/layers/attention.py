"""Self-attention over the positions of a feature map."""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


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
        q, k = self.query(tokens), self.key(tokens)
        return torch.log_softmax(q @ k.transpose(1, 2) / q.shape[-1] ** 0.5, dim=-1)

    def weights(self, tokens: Tensor) -> Tensor:
        """The attention matrix (B, N, N) that `forward` applies; every row sums to 1."""
        return torch.exp(self.log_weights(tokens))
