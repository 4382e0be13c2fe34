"""Beta schedules: pure functions of the optimizer step.

Stretches may be given as fractions of the run. They become absolute steps when the run first starts (`bind`) and stay
so in its checkpoints: raising `trainer.max_epochs` later moves nothing.
"""

from typing import Any

from saaae.ranges import NonNegativeFloat, PositiveFraction, PositiveInt, Span


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

    def bind(self, total_steps: int) -> None:
        """Turns stretches of the run into steps; a second call changes nothing."""

    def __call__(self, step: int) -> float:
        """Beta at optimizer step `step`, counted from 0."""
        return self.value

    def state_dict(self) -> dict[str, Any]:
        """The bound steps, plain integers."""
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

    def bind(self, total_steps: int) -> None:
        """Fixes the warm-up in steps, once."""
        if self.warmup_steps is None:
            self.warmup_steps = absolute_steps(self.warmup, total_steps)

    def __call__(self, step: int) -> float:
        """Beta at optimizer step `step`, counted from 0."""
        assert self.warmup_steps is not None, "bind() comes first"
        return self.value * (min(1.0, step / self.warmup_steps) if self.warmup_steps else 1.0)

    def state_dict(self) -> dict[str, Any]:
        """The bound steps."""
        return {"warmup_steps": self.warmup_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over the bound steps."""
        self.warmup_steps = state["warmup_steps"]


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
        """The bound steps."""
        return {"cycle_steps": self.cycle_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over the bound steps."""
        self.cycle_steps = state["cycle_steps"]
