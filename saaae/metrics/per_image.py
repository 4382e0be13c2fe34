"""Metrics of each image of a split, and their summary over the split."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from saaae.metrics.catalog import HEAVY_TAILED, names


class PerImage(Metric):
    """Named numbers of each image: their means, medians and percentiles, exact over any batches and processes.

    Lightning's own mean divides by a count that it averages over processes as an integer: 11 images on two processes
    count as 10. Each process must see at least one image.
    """

    full_state_update = False
    values: list[Tensor]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.names: tuple[str, ...] = ()
        self.add_state("values", [], dist_reduce_fx="cat")

    def update(self, values: Mapping[str, Tensor]) -> None:
        """Adds a batch.

        Args:
            values: Numbers (B,), by name; the same names each time.
        """
        self.names = tuple(values)
        self.values.append(torch.stack([value.detach().float() for value in values.values()], 1))

    def compute(self) -> dict[str, Tensor]:
        """The numbers of all images (N,) by name, float64 and on the CPU; in the order of images on one process."""
        numbers = dim_zero_cat(self.values).cpu().double()
        return dict(zip(self.names, numbers.unbind(1), strict=True))


def summary(numbers: Mapping[str, Tensor], spread: bool) -> dict[str, Tensor]:
    """Summary of the metrics over all images.

    Args:
        numbers: Values of each image (N,), by metric.
        spread: Whether to add `<name>_median` and `<name>_p05` of those that the catalogue marks.
    """
    found = {name: values.mean() for name, values in numbers.items() if name not in HEAVY_TAILED}
    tailed = {name: values.nanquantile(0.5) for name, values in numbers.items() if name in HEAVY_TAILED}
    found |= {name: value for name, value in tailed.items() if not value.isnan()}  # no image may have it
    for name in (name for name in names("percentiles") if spread and name in numbers):
        found[f"{name}_median"], found[f"{name}_p05"] = torch.quantile(
            numbers[name], torch.tensor([0.5, 0.05], dtype=torch.float64)
        )
    return found


def of_validation(logged: Mapping[str, Tensor]) -> dict[str, float]:
    """The validation metrics among everything that was logged, by logged name."""
    return {name: float(value) for name, value in logged.items() if name.startswith("val/")}
