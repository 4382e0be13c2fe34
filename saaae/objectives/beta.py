"""Beta schedules: the weight of the KL at each optimizer step.

All but the controller depend on the step and the batch alone. Durations may be given as fractions of the run; they
become absolute steps when the run first starts (`bind`) and stay so in its checkpoints, so raising
`trainer.max_epochs` later does not change them.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from saaae.errors import UserError
from saaae.objectives.processes import mean_over_processes
from saaae.ranges import NonNegativeFloat, PositiveFloat, PositiveFraction, PositiveInt, Span
from saaae.types import Posterior


def absolute_steps(span: int | float, total_steps: int) -> int:
    """`span` in optimizer steps: an integer is one already, a float is a fraction of `total_steps`."""
    return span if isinstance(span, int) else round(span * total_steps)


class ConstantBeta:
    """The same weight at every step.

    Args:
        value: Weight of the KL in `loss = nll + beta * kl`, both in nats per image.
    """

    def __init__(self, *, value: NonNegativeFloat) -> None:
        self.value = float(value)

    def check(self, posterior: nn.Module) -> None:
        """Checks the posterior of the model; raises UserError if its KL cannot be weighted so."""

    def bind(self, total_steps: int) -> None:
        """Converts durations to steps; a second call changes nothing."""

    def __call__(self, step: int) -> float | Tensor:
        """Beta at optimizer step `step`, counted from 0."""
        return self.value

    def penalty(self, posterior: Posterior, step: int) -> Tensor:
        """The term added to the nll, in nats per image: beta times the mean KL of the batch."""
        return self(step) * posterior.kl.mean()

    def diagnostics(self) -> Mapping[str, Tensor]:
        """Further numbers of the last penalty worth a curve, scalars by logged name; by default none."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over the steps of an earlier start."""


class LinearBeta(ConstantBeta):
    """Linear warm-up from 0 (Bowman et al. 2016; Sonderby et al. 2016).

    Args:
        value: Beta after the warm-up.
        warmup: Its length: steps (integer) or a fraction of the run (float).
    """

    def __init__(self, *, value: NonNegativeFloat, warmup: Span) -> None:
        super().__init__(value=value)
        self.warmup = warmup
        self.warmup_steps: int | None = None

    def shape(self, progress: float) -> float:
        """Share of the ceiling, 0 to 1, at a share of the warm-up."""
        return progress

    def bind(self, total_steps: int) -> None:
        """Fixes the warm-up in steps, once."""
        if self.warmup_steps is None:
            self.warmup_steps = absolute_steps(self.warmup, total_steps)

    def progress(self, step: int) -> float:
        """Share of the warm-up that has passed, 0 to 1."""
        assert self.warmup_steps is not None, "bind() comes first"
        return min(1.0, step / self.warmup_steps) if self.warmup_steps else 1.0

    def __call__(self, step: int) -> float:
        """Beta at optimizer step `step`, counted from 0."""
        return self.value * self.shape(self.progress(step))

    def state_dict(self) -> dict[str, Any]:
        return {"warmup_steps": self.warmup_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.warmup_steps = state["warmup_steps"]


class CosineBeta(LinearBeta):
    """Warm-up along half a cosine from 0.

    Args:
        value: Beta after the warm-up.
        warmup: Its length: steps (integer) or a fraction of the run (float).
    """

    def shape(self, progress: float) -> float:
        return 0.5 * (1.0 - math.cos(math.pi * progress))


class SigmoidBeta(LinearBeta):
    """Warm-up along a logistic curve (Bowman et al. 2016), stretched to run from exactly 0 to exactly 1.

    Args:
        value: Beta after the warm-up.
        warmup: Its length: steps (integer) or a fraction of the run (float).
        steepness: Width of the curve that is used, in units of its argument; the larger, the closer to a step.
    """

    def __init__(self, *, value: NonNegativeFloat, warmup: Span, steepness: PositiveFloat) -> None:
        super().__init__(value=value, warmup=warmup)
        self.steepness = steepness

    def shape(self, progress: float) -> float:
        """The hyperbolic tangent is the logistic curve, centred and scaled."""
        half = self.steepness / 4.0
        return 0.5 * (1.0 + math.tanh(half * (2.0 * progress - 1.0)) / math.tanh(half))


class CapacityBeta(LinearBeta):
    """Keeps the KL near a capacity that grows linearly: value * |KL - C(t)| (Burgess et al. 2018, eq. 8).

    Args:
        value: Weight of the distance.
        warmup: How long the capacity grows: steps (integer) or a fraction of the run (float).
        capacity: Its end, in nats per image.
    """

    def __init__(self, *, value: NonNegativeFloat, warmup: Span, capacity: NonNegativeFloat) -> None:
        super().__init__(value=value, warmup=warmup)
        self.capacity = capacity

    def penalty(self, posterior: Posterior, step: int) -> Tensor:
        """The weighted distance between the mean KL of the batch and the capacity at `step`."""
        return self.value * (mean_over_processes(posterior.kl.mean()) - self.capacity * self.progress(step)).abs()

    def __call__(self, step: int) -> float:
        return self.value


class FreeBitsBeta(ConstantBeta):
    """No penalty on a dimension's KL below a floor: value * sum_j max(floor, KL_j) (Kingma et al. 2016, eq. 15).

    Args:
        value: Weight of the KL.
        floor: KL of a dimension, in nats and averaged over the batch, below which it is not reduced.
    """

    def __init__(self, *, value: NonNegativeFloat, floor: NonNegativeFloat) -> None:
        super().__init__(value=value)
        self.floor = floor

    def check(self, posterior: nn.Module) -> None:
        """Your own posterior module declares such a KL by `factorized = True`."""
        if not getattr(posterior, "factorized", False):
            raise UserError(
                "beta=free_bits: needs a posterior whose KL is a sum over dimensions; "
                "expected posterior=diagonal or anchored, or posterior.prior=learned or standard of anchored_prior"
            )

    def penalty(self, posterior: Posterior, step: int) -> Tensor:
        """The weighted sum over dimensions."""
        per_dimension = posterior.kl_per_dimension
        assert per_dimension is not None, "the posterior is not factorized"
        return self.value * mean_over_processes(per_dimension.mean(0)).clamp_min(self.floor).sum()


class TargetKLBeta(ConstantBeta):
    """Moves beta until the KL is on target: a PI controller (ControlVAE, Shao et al. 2020, eq. 8 and algorithm 1).

    Args:
        value: Largest beta.
        target: The KL to hold, in nats per image.
        proportional: Gain K_p on the present error.
        integral: Gain K_i on the summed error.
    """

    def __init__(
        self, *, value: NonNegativeFloat, target: PositiveFloat, proportional: PositiveFloat, integral: PositiveFloat
    ) -> None:
        super().__init__(value=value)
        self.target, self.proportional, self.integral = target, proportional, integral
        self._sum = torch.zeros(())
        self._beta = torch.zeros(())

    def __call__(self, step: int) -> Tensor:
        """Beta as it was last set, on the device: reading it would stall a step."""
        return self._beta

    def penalty(self, posterior: Posterior, step: int) -> Tensor:
        """Sets beta by the mean KL of the batch; returns beta times that KL."""
        kl = mean_over_processes(posterior.kl.mean())
        with torch.no_grad():
            error = self.target - kl
            total = self._sum.to(kl.device) - self.integral * error
            beta = self.proportional * torch.sigmoid(-error) + total
            self._beta = torch.where(beta.isfinite(), beta.clamp(0.0, self.value), self._beta.to(kl.device))
            self._sum = torch.where(beta == self._beta, total, self._sum.to(kl.device))  # no winding up at the limits
        return self._beta * kl

    def state_dict(self) -> dict[str, Any]:
        return {"sum": float(self._sum), "beta": float(self._beta)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over the summed error and beta."""
        self._sum, self._beta = torch.tensor(state["sum"]), torch.tensor(state["beta"])


class CyclicalBeta(ConstantBeta):
    """Cycles of a linear ramp from 0 and a plateau (Fu et al. 2019, eq. 6).

    After the planned cycles beta stays at its ceiling, so that an extended run continues as an ordinary VAE.

    Args:
        value: The ceiling.
        num_cycles: Number of cycles in the run as first planned.
        ramp: Share of a cycle that rises.
    """

    def __init__(self, *, value: NonNegativeFloat, num_cycles: PositiveInt, ramp: PositiveFraction) -> None:
        super().__init__(value=value)
        self.num_cycles, self.ramp = num_cycles, ramp
        self.cycle_steps: int | None = None

    def bind(self, total_steps: int) -> None:
        """Fixes the cycle in steps, once."""
        if self.cycle_steps is None:
            self.cycle_steps = max(1, total_steps // self.num_cycles)

    def __call__(self, step: int) -> float:
        """Beta at optimizer step `step`, counted from 0."""
        assert self.cycle_steps is not None, "bind() comes first"
        cycle, within = divmod(step, self.cycle_steps)
        if cycle >= self.num_cycles:
            return self.value
        return self.value * min(1.0, within / self.cycle_steps / self.ramp)

    def state_dict(self) -> dict[str, Any]:
        return {"cycle_steps": self.cycle_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.cycle_steps = state["cycle_steps"]
