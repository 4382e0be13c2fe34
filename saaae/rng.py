"""Where random numbers come from: the run's own state in training, (seed, image index) alone in evaluation."""

import copy
from itertools import count
from typing import Protocol, Self

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 2**64 / golden ratio, odd, as a signed 64-bit integer
_MIX_1 = -4658895280553007687
_MIX_2 = -7723592293110705685


class RandomSource(Protocol):
    """A source of random tensors for one batch."""

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal values, float32, in the shape of `like` (B, ...)."""
        ...

    def uniform(self, like: Tensor) -> Tensor:
        """Values uniform on (0, 1], float32, in the shape of `like` (B, ...)."""
        ...

    def of(self, rows: Tensor) -> Self:
        """The source of some images of the batch, by their rows (K,); its draws count as draws of this one."""
        ...


class GlobalRandom:
    """Draws from the global generator of the tensor's device, which a checkpoint saves and restores."""

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal values (B, ...), float32."""
        return torch.randn_like(like, dtype=torch.float32)

    def uniform(self, like: Tensor) -> Tensor:
        """Values uniform on (0, 1] (B, ...), float32: 1 - u, because `torch.rand` can return exactly 0."""
        return 1.0 - torch.rand_like(like, dtype=torch.float32)

    def of(self, rows: Tensor) -> Self:
        """Itself."""
        return self


class IndexedRandom:
    """Draws that depend on (seed, image index, number of the draw) only.

    Batch size, order, device and number of processes therefore change no evaluation metric. A counter-based generator:
    every element's counter is hashed with the SplitMix64 finaliser (Steele, Lea and Flood 2014, fig. 16).

    Args:
        seed: Seed of the run.
        index: Image indices (B,), int64, unique within a split.
        stream: Separates independent users of the same indices (splits, corruption, latent).
    """

    def __init__(self, seed: int, index: Tensor, stream: int = 0) -> None:
        self._key = _hash(index.to(torch.int64) + _hash(torch.tensor(seed * 1_000_003 + stream, device=index.device)))
        self._draws = count(1)

    def of(self, rows: Tensor) -> Self:
        """The source of some images of the batch: they draw what they would in the whole batch."""
        part = copy.copy(self)  # counts its draws together with this one
        part._key = self._key[rows]
        return part

    def _bits(self, like: Tensor) -> Tensor:
        counter = torch.arange(like[0].numel(), device=like.device) + (next(self._draws) << 40)
        return _hash(self._key[:, None] + _GOLDEN * counter[None, :]).view(like.shape)

    def uniform(self, like: Tensor) -> Tensor:
        """Values uniform on (0, 1] (B, ...), float32, with 24 random bits."""
        return (((self._bits(like) >> 40) & 0xFFFFFF) + 1).to(torch.float32) * 2.0**-24

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal values (B, ...), float32, by the Box-Muller transform."""
        radius = torch.sqrt(-2.0 * torch.log(self.uniform(like)))
        return radius * torch.cos(2.0 * torch.pi * self.uniform(like))


def _shift_right(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)  # logical shift: torch's is arithmetic


def _hash(x: Tensor) -> Tensor:
    x = x + _GOLDEN
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)
