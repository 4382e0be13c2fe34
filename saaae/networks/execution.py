"""Precision and activation checkpointing of any network."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def compute_in(network: nn.Module, dtype: torch.dtype) -> None:
    """Keeps the weights of a network in a precision and computes in it; inputs and outputs stay float32."""
    network.to(dtype)

    def cast(value: Any, to: torch.dtype) -> Any:
        if isinstance(value, tuple | list):
            return type(value)(cast(part, to) for part in value)
        return value.to(to) if isinstance(value, Tensor) and value.is_floating_point() else value

    network.register_forward_pre_hook(lambda module, inputs: cast(inputs, dtype))
    network.register_forward_hook(lambda module, inputs, output: cast(output, torch.float32))


def stages_of(network: nn.Module) -> Iterator[nn.Sequential]:
    """The outermost sequences of layers of a network that do not contain a sequence themselves."""
    for child in network.children():
        holds_sequences = any(isinstance(part, nn.Sequential) for part in child.children())
        if isinstance(child, nn.Sequential) and not holds_sequences:
            yield child
        elif isinstance(child, nn.Sequential | nn.ModuleList):
            yield from stages_of(child)


def keep_stage_inputs_only(network: nn.Module) -> None:
    """Recomputes each stage of a network in the backward pass (Chen et al. 2016): the same numbers in less memory.

    The names of weights stay.
    """
    for stage in stages_of(network):
        stage.forward = partial(checkpoint, stage.forward, use_reentrant=False)  # type: ignore[method-assign]
