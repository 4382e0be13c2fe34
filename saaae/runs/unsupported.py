"""Callbacks of Lightning that run without an error here but give wrong or no results."""

from collections.abc import Iterable

from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    Callback,
    LearningRateFinder,
    StochasticWeightAveraging,
    WeightAveraging,
)

from saaae.errors import UserError

AVERAGING = "best.ckpt would hold other weights than those that were validated; remove it"
SEARCH = "search {} with hydra/sweeper=optuna"
REASONS: dict[type[Callback], str] = {
    WeightAveraging: AVERAGING,
    StochasticWeightAveraging: AVERAGING,
    LearningRateFinder: SEARCH.format("optimizer.lr"),
    BatchSizeFinder: SEARCH.format("data.batch_size"),
}


def refuse_unsupported(callbacks: Iterable[Callback]) -> None:
    """Checks the callbacks of a configuration before a run changes its folder.

    Raises:
        UserError: If one of them, or a base class of it, is not supported.
    """
    for callback in callbacks:
        for kind, reason in REASONS.items():
            if isinstance(callback, kind):
                raise UserError(f"callbacks: {type(callback).__name__} is not supported; {reason}")
