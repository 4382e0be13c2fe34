"""Optimizer, learning-rate schedule and gradient clipping of a run."""

import math
from collections.abc import Callable, Iterable
from typing import Literal

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from saaae.ranges import NonNegativeInt, PositiveFloat


def constant(progress: float) -> float:
    """Factor on the learning rate after the warm-up."""
    return 1.0


def cosine(progress: float) -> float:
    """Half a cosine from 1 to 0 (Loshchilov and Hutter 2017, eq. 5 without restarts) over `progress` 0 to 1."""
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


SCHEDULES: dict[str, Callable[[float], float]] = {"constant": constant, "cosine": cosine}


class Optimization:
    """How a model is optimised.

    Args:
        algorithm: Makes the optimizer of parameters and `lr`.
        lr: Learning rate.
        gradient_clip: Largest norm of the whole gradient, of a loss in nats per image; None clips nothing.
        schedule: Course of the learning rate after the warm-up.
        warmup_steps: Optimizer steps of linear warm-up from 0.
    """

    def __init__(
        self,
        *,
        algorithm: Callable[..., Optimizer],
        lr: PositiveFloat,
        gradient_clip: PositiveFloat | None,
        schedule: Literal["constant", "cosine"],
        warmup_steps: NonNegativeInt,
    ) -> None:
        self.algorithm, self.lr, self.gradient_clip = algorithm, lr, gradient_clip
        self.schedule, self.warmup_steps = SCHEDULES[schedule], warmup_steps

    def lr_factor(self, step: float, total_steps: float) -> float:
        """Factor on the learning rate at optimizer step `step` of `total_steps`.

        A schedule that ends with the run keeps its last value in an extended run, also inside its warm-up; a constant
        one does not depend on the length of the run.
        """
        if self.schedule is not constant:
            step = min(step, total_steps)
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        return self.schedule((step - self.warmup_steps) / max(1.0, total_steps - self.warmup_steps))

    def exception_after_end(self, total_steps: int) -> str:
        """How the rate changes after `total_steps`, for the log of an extended run; empty if it does not."""
        if self.schedule is not constant or self.warmup_steps <= total_steps:
            return ""
        return f", but the learning rate still rises until step {self.warmup_steps}"

    def build(self, parameters: Iterable[nn.Parameter], total_steps: float, fused: bool) -> tuple[Optimizer, LambdaLR]:
        """The optimizer and its schedule, stepped once per optimizer step."""
        optimizer = self.algorithm(parameters, lr=self.lr, fused=fused)
        return optimizer, LambdaLR(optimizer, lambda step: self.lr_factor(step, total_steps))
