"""The exponential moving average of a model's weights."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of trained parameters, which takes their place in validations and checkpoints.

    The update after step t, counted from 0, keeps the share min(decay, (1 + t) / (10 + t)) of the average, so that the
    first weights, which are far off, are soon forgotten (TensorFlow, `tf.train.ExponentialMovingAverage` with
    `num_updates`). Nothing waits for the device. A step that is left out because it is not finite counts: it averages
    in again the weights that it left as they were. Buffers and frozen parameters are those of the model.

    Args:
        decay: Largest share of the average that an update keeps.
    """

    def __init__(self, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self._names: list[str] = []
        self._parameters: list[nn.Parameter] = []
        self._average: list[Tensor] = []
        self._training: list[Tensor] = []  # the model's own weights while it has the average
        self._loaded: dict[str, Tensor] = {}

    def begin(self, named_parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
        """Starts from the model's parameters, on their device, or continues from what a checkpoint held.

        At least in 32 bits: in 16 bits the small steps of an average would round to none.
        """
        trained = [(name, parameter) for name, parameter in named_parameters if parameter.requires_grad]
        self._names, self._parameters = [name for name, _ in trained], [parameter for _, parameter in trained]
        self._average = [
            torch.empty_like(parameter, dtype=torch.promote_types(parameter.dtype, torch.float32), requires_grad=False)
            for parameter in self._parameters
        ]
        self._copy([self._loaded.get(name, parameter.detach()) for name, parameter in trained], self._average)
        self._loaded = {}

    def update(self) -> None:
        """Takes in the parameters after an optimizer step."""
        kept = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        now = [
            parameter.detach().to(mean.dtype) for parameter, mean in zip(self._parameters, self._average, strict=True)
        ]
        torch._foreach_lerp_(self._average, now, 1 - kept)

    def put_in(self) -> None:
        """Gives the model the average."""
        self._training = [parameter.detach().clone() for parameter in self._parameters]
        self._copy(self._average, self._parameters)

    def take_out(self) -> None:
        """Gives the model its own weights back."""
        self._copy(self._training, self._parameters)
        self._training = []

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Makes the average the `state_dict` of a checkpoint; one to resume from also gets the training weights."""
        live: dict[str, Tensor] = checkpoint["state_dict"]
        if "optimizer_states" in checkpoint:
            own = dict(zip(self._names, self._training, strict=True)) if self._training else {}
            checkpoint["training_weights"], checkpoint["averaged_steps"] = live | own, self.steps
        if not self._training:
            checkpoint["state_dict"] = live | dict(zip(self._names, self._average, strict=True))

    def load(self, checkpoint: dict[str, Any]) -> None:
        """Takes the average out of a checkpoint to resume from, and leaves the training weights as its `state_dict`."""
        self._loaded, self.steps = checkpoint["state_dict"], checkpoint["averaged_steps"]
        checkpoint["state_dict"] = checkpoint["training_weights"]

    @staticmethod
    def _copy(values: Iterable[Tensor], into: Iterable[Tensor]) -> None:
        with torch.no_grad():
            torch._foreach_copy_(list(into), list(values))
