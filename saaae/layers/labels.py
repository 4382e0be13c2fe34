"""Vectors that represent classes."""

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from saaae.ranges import PositiveInt


class OneHot(nn.Module):
    """One-hot vectors.

    Args:
        num_classes: Number of classes K.
    """

    def __init__(self, *, num_classes: int) -> None:
        super().__init__()
        self.num_classes = self.size = num_classes

    def forward(self, label: Tensor) -> Tensor:
        """Classes (B,) to vectors (B, K), float32."""
        return one_hot(label, self.num_classes).to(torch.get_default_dtype())


class LabelEmbedding(nn.Module):
    """One learned vector per class; `weight` (K, size) can be used elsewhere.

    Args:
        num_classes: Number of classes K.
        size: Length of a vector.
    """

    def __init__(self, *, num_classes: int, size: PositiveInt) -> None:
        super().__init__()
        self.num_classes, self.size = num_classes, size
        self.embedding = nn.Embedding(num_classes, size)

    def forward(self, label: Tensor) -> Tensor:
        """Classes (B,) to vectors (B, size)."""
        return self.embedding(label)
