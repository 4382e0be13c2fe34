"""A run: its resolved configuration, folder and overrides."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from saaae.config.overrides import key_of
from saaae.config.settings import affects_results, is_among, marked
from saaae.config.trust import check_trusted
from saaae.config.validation import check_stored_config
from saaae.data.listing import FOLDERS, folder_classes
from saaae.errors import UserError
from saaae.ranges import FOLDER, LENGTH, RUNTIME
from saaae.runs.folder import RunFolder

NEW_RUN_KEYS = ("name", "objective")
"""Runtime settings that belong to a new run: not with `resume=`."""


@dataclass(frozen=True)
class Run:
    """What a run computes, where it is stored, and the command that started it.

    Attributes:
        cfg: Resolved configuration.
        folder: The run folder.
        overrides: Command-line overrides, also those that the run began with.
        tags: Settings that distinguish the run in a table of hyperparameters, as plain values.
    """

    cfg: DictConfig
    folder: RunFolder
    overrides: list[str] = field(default_factory=list)
    tags: dict[str, Any] = field(default_factory=dict)


def run_of_job(cfg: DictConfig, folder: RunFolder) -> Run:
    """The run of a Hydra job: a new one, or with `resume=` the one that its folder holds.

    Raises:
        UserError: If something is given that a resumed run cannot change.
    """
    overrides = list(HydraConfig.get().overrides.task)
    if not cfg.resume:
        cfg = resolve_config(cfg)
        return Run(cfg, folder, overrides, tags_of(cfg, overrides, {}))
    cfg = resolve_config(resumed(folder, cfg, overrides))
    tags = tags_of(cfg, overrides, folder.tags())
    return Run(cfg, folder, [*folder.overrides(), *(o for o in overrides if not o.startswith("resume="))], tags)


def resolve_config(cfg: DictConfig) -> DictConfig:
    """Fills in what depends on other settings: the kind of latent, absolute folders, classes, a measured noise factor.

    Raises:
        UserError: If `posterior.factor` names no finished SAAAE run, or the folder of `data.labels` has no classes.
    """
    cfg = cfg.copy()
    OmegaConf.set_struct(cfg, False)
    typed = [
        key
        for key in ("latent_dim", "latent_channels")
        if key in cfg.model and not OmegaConf.is_interpolation(cfg.model, key) and cfg.model[key] is not None
    ]
    if len(typed) == 1:
        cfg.model["latent_channels" if typed == ["latent_dim"] else "latent_dim"] = None
    cfg.data_dir = absolute_path(cfg.data_dir)  # by default an environment variable's value
    for path in marked(FOLDER, cfg.data._target_):
        node, key = (cfg.data, path.removeprefix("data.")) if path.startswith("data.") else (cfg, path)
        value = None if OmegaConf.is_interpolation(node, key) else node.get(key)
        if value is not None:
            node[key] = absolute_path(value)
    _fill_in_classes(cfg)
    if isinstance(OmegaConf.select(cfg, "posterior.factor"), str):
        cfg.posterior.factor = factor_of_run(cfg.posterior.factor, cfg.posterior.match)
    return cfg


def _fill_in_classes(cfg: DictConfig) -> None:
    """Replaces data.labels=folders by the names of the classes, which the run keeps, and sets their number."""
    data, model = cfg.data, cfg.model
    if data.get("labels") == FOLDERS:
        data.labels = folder_classes(Path(data.root), Path(data.test_root) if data.get("test_root") else None)
    is_open = OmegaConf.is_interpolation(model, "num_classes") or model.get("num_classes") is None
    if data.get("labels") is not None and "num_classes" in model and is_open:
        model.num_classes = len(data.labels)


def keep_classes(data: DictConfig, trained: DictConfig) -> None:
    """Numbers the classes of other folders (data.labels=folders) as the data that a model was trained on.

    Raises:
        UserError: If other data list other classes, or the same in another order.
    """
    if (names := trained.get("labels")) is None:
        return
    if data.get("labels") == FOLDERS:
        data.labels = names
    elif data.get("labels") not in (None, names):
        raise UserError(
            f"data.labels={list(data.labels)}: the model was trained on the classes {list(names)}; expected these"
        )


def absolute_path(text: str) -> str:
    """An absolute path, with ~ expanded; a URL stays as it is."""
    return text if "://" in text else str(Path(text).expanduser().absolute())


def factor_of_run(path: str, match: str) -> float:
    """The uniform noise factor that equals a finished SAAAE run's map in rate or power.

    Raises:
        UserError: If the folder holds no finished run of a SAAAE.
    """
    test = RunFolder(path).results()["test"]
    if "noise_power" not in test:
        raise UserError(f"posterior.factor={path}: not a SAAAE run, its metrics.json has no test noise_power")
    factor = math.exp(test["noise_log_factor"]) if match == "rate" else math.sqrt(test["noise_power"])
    if not 0 < factor <= 1:
        raise UserError(f"posterior.factor={path}: its mean factor is {factor:.3f}, not a suppression of noise")
    return factor


def resumed(folder: RunFolder, cfg: DictConfig, overrides: list[str]) -> DictConfig:
    """The folder's own configuration with the overrides that `resume=` allows.

    Raises:
        UserError: If anything else is given, or the folder holds nothing to resume.
    """
    stored = folder.full_config()
    allowed = [key for key in [*marked(RUNTIME), *marked(LENGTH)] if key not in NEW_RUN_KEYS]
    for key in map(key_of, overrides):
        if key.startswith("hydra."):  # Lightning's further processes get their folder so
            continue
        if not is_among(key, allowed):
            others = ", ".join(key for key in allowed if key != "resume")
            raise UserError(f"{key}: not with resume=, the run keeps its own; only {others} may be given")
        if key != "resume":
            OmegaConf.update(stored, key, OmegaConf.select(cfg, key))
    check_trusted(stored, folder.record, cfg.trust)
    check_stored_config(stored)
    return stored


def tags_of(cfg: DictConfig, overrides: list[str], before: dict[str, Any]) -> dict[str, Any]:
    """Model, data, beta, seed and the overrides that affect results, as plain values.

    Args:
        cfg: Resolved configuration.
        overrides: Command-line overrides.
        before: Tags of the run when it began; empty for a new run.
    """
    choices = HydraConfig.get().runtime.choices
    chosen = before or {key: choices[key] for key in ("model", "data", "beta")}
    for key in map(key_of, overrides):
        if not affects_results(key):
            continue
        value = choices[key] if key in choices else OmegaConf.select(cfg, key)
        chosen[key] = value if isinstance(value, int | float | str | bool) else str(value)
    return chosen | {"seed": cfg.seed}
