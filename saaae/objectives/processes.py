"""Means over a batch that several processes share."""

import torch
from torch import Tensor


def mean_over_processes(mean: Tensor) -> Tensor:
    """The mean of a whole batch, given that of this process's equal share; its gradient is the share's own.

    DDP averages gradients, so a function of the result gets the gradient of one process on the whole batch.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return mean
    share = mean.detach()
    whole = share.clone()
    torch.distributed.all_reduce(whole)
    return mean + (whole / torch.distributed.get_world_size() - share)
