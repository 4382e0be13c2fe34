"""Callbacks of Lightning that run without an error here but give wrong or no results."""

from collections.abc import Iterable
from typing import Any

from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    Callback,
    LearningRateFinder,
    StochasticWeightAveraging,
    WeightAveraging,
)

from saaae.errors import UserError

AVERAGING = "best.ckpt would not hold the averaged weights that are validated; expected ema=0.999 instead"

SEARCH = "search {} with hydra/sweeper=optuna"

REASONS: dict[type[Callback], str] = {
    WeightAveraging: AVERAGING,
    StochasticWeightAveraging: AVERAGING,
    LearningRateFinder: SEARCH.format("optimizer.lr"),
    BatchSizeFinder: SEARCH.format("data.batch_size"),
}


def refuse_unsupported(callbacks: Iterable[tuple[Any, Callback]]) -> None:
    """Checks the callbacks of a configuration before a run changes its folder.

    Args:
        callbacks: Pairs of a key below `callbacks` and its callback.

    Raises:
        UserError: If one of them, or a base class of it, is not supported.
    """
    for key, callback in callbacks:
        for kind, reason in REASONS.items():
            if isinstance(callback, kind):
                raise UserError(f"callbacks.{key}: {type(callback).__name__} is not supported; {reason}")
