"""Means over images of whatever a model measures of each."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torchmetrics import Metric


class Means(Metric):
    """Means over all images of named per-image numbers, exact over several processes.

    Lightning's own mean divides by a count that it averages over processes as an integer: 11 images on two processes
    count as 10. Each process must see at least one image.
    """

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.names: tuple[str, ...] = ()
        self.add_state("total", torch.zeros(0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, values: Mapping[str, Tensor]) -> None:
        """Adds a batch.

        Args:
            values: Numbers (B,), by name; the same names each time.
        """
        total = torch.stack([value.double().sum() for value in values.values()])
        self.names = tuple(values)
        self.total = self.total + total if self.total.numel() else total
        self.count += len(next(iter(values.values())))

    def compute(self) -> dict[str, Tensor]:
        """The means, by name."""
        return dict(zip(self.names, self.total / self.count, strict=True))
