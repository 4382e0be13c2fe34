"""Means and tensors of a batch that several processes share."""

from typing import Any

import torch
from torch import Tensor


def is_shared() -> bool:
    """Whether several processes share a batch."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def mean_over_processes(mean: Tensor) -> Tensor:
    """The mean of a whole batch, given that of this process's equal share; its gradient is the share's own.

    DDP averages gradients, so a function of the result gets the gradient of one process on the whole batch.
    """
    if not is_shared():
        return mean
    share = mean.detach()
    whole = share.clone()
    torch.distributed.all_reduce(whole)
    return mean + (whole / torch.distributed.get_world_size() - share)


class _Gather(torch.autograd.Function):
    """Concatenates the shares of all processes; the gradient of a share is its sum over what they all do with it."""

    @staticmethod
    def forward(ctx: Any, share: Tensor) -> Tensor:
        shares = [torch.empty_like(share) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(shares, share.contiguous())
        return torch.cat(shares)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total.chunk(torch.distributed.get_world_size())[torch.distributed.get_rank()]


def gathered(share: Tensor) -> Tensor:
    """The rows (B, ...) of all processes in their order, given those of this process's equal share."""
    whole: Tensor = _Gather.apply(share) if is_shared() else share
    return whole
