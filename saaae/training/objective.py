"""Objectives of a study, and the pruning of its trials."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig

from saaae.errors import UserError
from saaae.metrics.catalog import flagged
from saaae.training.distributed import rank

if TYPE_CHECKING:
    import optuna

OBJECTIVES = "objectives"
"""Where a study stores which metrics its values are."""

TRIAL = "SAAAE_TRIAL"
"""Environment variable with the number of the trial that a job is."""

SETTINGS = "settings"
"""Attribute of a study with the settings that its trials share."""


def objectives(cfg: DictConfig) -> list[str]:
    """The validation metrics of a study; null is `checkpoint.monitor`, or val/elbo."""
    chosen = cfg.objective
    return list(chosen) if isinstance(chosen, ListConfig) else [chosen or cfg.checkpoint.monitor or "val/elbo"]


def directions(names: Sequence[str]) -> list[Literal["minimize", "maximize"]]:
    """Whether each metric is to grow."""
    return ["minimize" if flagged(name, "minimize") else "maximize" for name in names]


def values_of(cfg: DictConfig, validation: Mapping[str, float]) -> float | list[float] | None:
    """The objectives on the validation images; None where there was no validation, or none of a model without a bound.

    Args:
        cfg: The settled configuration.
        validation: Metrics of best.ckpt.
    """
    if not validation:
        return None
    names = objectives(cfg)
    if isinstance(cfg.objective, ListConfig):
        return [validation[name] for name in names]
    return validation.get(names[0])


def opened(storage: str, name: str, names: list[str], settings: list[str], pruner: Any) -> "optuna.Study":
    """A study, made where there is none.

    Args:
        storage: URL of its database.
        name: Its name there.
        names: The metrics that it is about.
        settings: Settings that all its trials share.
        pruner: Gives up on trials.

    Raises:
        UserError: If the storage cannot be opened, or the study is one of other objectives or settings.
    """
    if not names:
        raise UserError("objective=[]: expected a metric, or several")
    import optuna
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    try:
        study = optuna.create_study(
            study_name=name, storage=storage, directions=directions(names), pruner=pruner, load_if_exists=True
        )
    except (ArgumentError, SQLAlchemyError, ImportError) as error:
        raise UserError(
            f"hydra.sweeper.storage={storage}: cannot be opened ({str(error).splitlines()[0]}); "
            "expected the URL of a database, such as sqlite:///study.db"
        ) from None
    if not study.trials and [direction.name.lower() for direction in study.directions] != directions(names):
        raise UserError(f"{name}: a study with other objectives; choose another name")
    for key, now in ((OBJECTIVES, names), (SETTINGS, settings)):
        stored = study.user_attrs.get(key, now) if study.trials else now
        if stored != now:
            there = " ".join(word for word in stored if word not in now) or "none of these"
            asked = " ".join(word for word in now if word not in stored) or "none of these"
            raise UserError(f"{name}: a study with other {key} ({there} there, {asked} asked); choose another name")
        study.set_user_attr(key, now)
    return study


def in_study() -> bool:
    """Whether this process runs a job of a study."""
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return False
    return "study" in HydraConfig.get().sweeper


def is_trial() -> bool:
    """Whether this process works on a trial of a study that may be pruned."""
    return TRIAL in os.environ


def verdict() -> Callable[[float, int], bool] | None:
    """Tells from a score and an epoch whether this trial is to be given up; None in all processes but the first."""
    if rank() > 0:
        return None
    import optuna

    sweeper = HydraConfig.get().sweeper
    study = optuna.load_study(study_name=sweeper.study, storage=sweeper.storage, pruner=instantiate(sweeper.pruner))
    trial = optuna.trial.Trial(study, study.get_trials(deepcopy=False)[int(os.environ[TRIAL])]._trial_id)

    def is_pruned(score: float, epoch: int) -> bool:
        try:
            trial.report(score, epoch)
            return trial.should_prune()
        except optuna.exceptions.UpdateFinishedTrialError:  # another process has reported its end
            return False

    return is_pruned
