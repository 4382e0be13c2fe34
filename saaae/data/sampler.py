"""The order of the images: batches of indices as a function of (seed, epoch)."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler


class EpochBatches(Sampler[Tensor]):
    """Batches of indices whose order is a function of (seed, epoch), starting anywhere in an epoch.

    Several processes share the images of each step. Shuffled for training, they get equally many batches of equal
    sizes, so an epoch leaves out up to one image fewer than there are processes; in order, every image comes once.

    Args:
        size: Number of images.
        batch_size: Images a batch of one process; the last one may be smaller.
        seed: Seed of the order; None keeps the images in order.
        rank: Number of this process.
        num_processes: How many there are.
    """

    def __init__(self, size: int, batch_size: int, seed: int | None, rank: int = 0, num_processes: int = 1) -> None:
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.rank, self.num_processes = rank, num_processes
        self.epoch, self.start = 0, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch; a new epoch starts at its first batch."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def __len__(self) -> int:
        full, rest = divmod(self.size, self.batch_size * self.num_processes)
        last = rest > self.rank if self.seed is None else rest >= self.num_processes
        return full + last  # of the whole epoch: Lightning counts batches by it

    def __iter__(self) -> Iterator[Tensor]:
        start, self.start = self.start, 0
        for step in self.steps(start):
            shared = len(step) if self.seed is None else len(step) - len(step) % self.num_processes
            yield step[self.rank : shared : self.num_processes]

    def steps(self, start: int) -> Iterator[Tensor]:
        """What all processes share at each step of the epoch, from one step on."""
        order = torch.arange(self.size)
        if self.seed is not None:
            order = torch.randperm(self.size, generator=self.generator())
        yield from order.split(self.batch_size * self.num_processes)[start : len(self)]

    def generator(self) -> torch.Generator:
        assert self.seed is not None
        return torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
