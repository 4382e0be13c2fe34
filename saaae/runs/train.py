"""The job behind train.py: decides what a folder needs, then fits. Free of torch until there is something to fit."""

import math
import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from saaae.callbacks.interruption import Interrupted, Interruption
from saaae.errors import Pruned, RunFailedError, UserError
from saaae.runs.allocator import keep_freed_blocks
from saaae.runs.door import Door
from saaae.runs.folder import LENGTH, RunFolder, key_of, tells_apart
from saaae.runs.processes import end_with_parent, one_job_of_a_sweep, rank, started_together
from saaae.runs.schema import Train
from saaae.runs.status import locked, read_status, recorded
from saaae.runs.study import is_trial, values_of
from saaae.runs.sweep import compare
from saaae.runs.trust import check_trusted
from saaae.runs.validate import combinations, refuse_faults

WITH_RESUME = (
    "resume",
    "trust",
    "accelerator",
    "on_nonfinite",
    "data_dir",
    "cache_dir",
    "data.num_workers",
    "data.resident",
    "data.cache_gb",
    "data.allow_duplicates",
    *LENGTH,
)
"""What may be said together with `resume=`."""


def settle(cfg: DictConfig) -> DictConfig:
    """Replaces what the user left open by values: the kind of latent, an absolute data folder, a measured factor.

    Raises:
        UserError: If `posterior.factor` names no finished SAAAE run.
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
    cfg.data_dir = str(Path(cfg.data_dir).absolute())
    for node, key in [(cfg, "cache_dir"), *((cfg.data, key) for key in ("root", "test_root", "reference_root"))]:
        value = None if OmegaConf.is_interpolation(node, key) else node.get(key)
        if value is not None and "://" not in value and not value.startswith("local:"):  # a URL stays as it is
            node[key] = str(Path(value).expanduser().absolute())
    if isinstance(OmegaConf.select(cfg, "posterior.factor"), str):
        cfg.posterior.factor = factor_of_run(cfg.posterior.factor, cfg.posterior.match)
    return cfg


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
    """The folder's own configuration with what may be said together with `resume=`.

    Raises:
        UserError: If anything else is given, or the folder holds nothing to resume.
    """
    stored = folder.full_config()
    keys = [key_of(override) for override in overrides]
    for key in keys:
        if key.startswith("hydra."):  # Lightning tells its further processes their folder so
            continue
        if not any(key == free or key.startswith(f"{free}.") for free in WITH_RESUME):
            raise UserError(
                f"{key}: not with resume=, the run keeps its own; only {', '.join(WITH_RESUME[1:])} may be given"
            )
        if key != "resume":
            OmegaConf.update(stored, key, OmegaConf.select(cfg, key))
    check_trusted(stored, folder.record, cfg.trust)
    refuse_faults(stored)
    return stored


def check(cfg: DictConfig, overrides: list[str]) -> None:
    """Everything about a job that can be refused before torch is imported.

    Raises:
        UserError: Naming the key or folder.
    """
    if cfg.resume == "":
        raise UserError("resume=: expected a run folder")
    if cfg.name is not None and (not Path(cfg.name).parts or ".." in Path(cfg.name).parts):
        raise UserError(f"name={cfg.name}: expected the name of a folder below outputs")
    if started_together() and not cfg.name and not cfg.resume:
        raise UserError("name=null: expected a name: the processes of torchrun or srun must agree on the run folder")
    if cfg.resume:
        cfg = resumed(RunFolder(cfg.resume), cfg, overrides)
    if cfg.trainer.max_time is not None and _seconds(cfg.trainer.max_time) == 0:
        raise UserError(
            f"trainer.max_time={cfg.trainer.max_time}: no time to train; expected days:hours:minutes:seconds above zero"
        )
    for line in combinations(settle(cfg)):
        raise UserError(line)


def run(cfg: DictConfig) -> float | list[float] | None:
    """Trains, continues, or leaves a finished run alone.

    Returns:
        The objectives of a study, of best.ckpt on the validation images; None if there was no validation.
    """
    folder = RunFolder(HydraConfig.get().runtime.output_dir)
    shown = Path(folder.path.relative_to(Path.cwd())) if folder.path.is_relative_to(Path.cwd()) else folder.path
    if rank() > 0:
        return _run_beside(cfg, folder, shown)
    with locked(folder, shown), Interruption() as interruption, recorded(folder, shown):
        return _run(cfg, folder, shown, interruption)


def _run_beside(cfg: DictConfig, folder: RunFolder, shown: Path) -> float | list[float] | None:
    """A further process of a run: where it ends as the first one does, it leaves the word and the exit status to it."""
    end_with_parent()
    try:
        with Interruption() as interruption:
            return _run(cfg, folder, shown, interruption)
    except (Interrupted, UserError, RunFailedError):
        sys.exit(0)  # Lightning kills the first process when another one ends with anything else


def _run(cfg: DictConfig, folder: RunFolder, shown: Path, interruption: Interruption) -> float | list[float] | None:
    overrides, resuming = list(HydraConfig.get().overrides.task), bool(cfg.resume)
    cfg = settle(resumed(folder, cfg, overrides) if resuming else cfg)
    settings = told(cfg, overrides, folder.told() if resuming else {})
    if resuming:
        overrides = [*folder.overrides(), *(typed for typed in overrides if not typed.startswith("resume="))]
    if folder.record.is_file():
        if not resuming:
            folder.refuse_other_config(cfg)
        stored = folder.config()
        other_length = any(OmegaConf.select(cfg, key) != OmegaConf.select(stored, key) for key in LENGTH)
        if (results := _results(folder)) and not (resuming and other_length):
            print(f"{shown}: finished already, nothing to do")
            return values_of(cfg, results.get("validation", {}))
        if results:
            _refuse_shorter(cfg, stored, results)
    if is_trial() and (status := read_status(folder)).get("state") == "pruned":  # a study tries some things twice
        raise Pruned(status["why"])
    if cfg.keep_freed_memory:
        keep_freed_blocks()
    from saaae.runs.fit import fit

    with one_job_of_a_sweep():
        return fit(cfg, folder, shown, overrides, settings, interruption)


def _results(folder: RunFolder) -> dict[str, Any]:
    """Content of metrics.json; empty if the run has not finished, or the file is damaged: best.ckpt is tested again."""
    if not folder.metrics.is_file():
        return {}
    try:
        return folder.results()
    except UserError as error:
        print(f"warning: {error}; testing again", file=sys.stderr)
        return {}


def _refuse_shorter(cfg: DictConfig, stored: DictConfig, results: dict[str, Any]) -> None:
    """A finished run can only be made longer: otherwise its record would describe another run.

    Args:
        cfg: The new configuration.
        stored: The configuration that the run finished with.
        results: Its metrics.json.

    Raises:
        UserError: If a limit leaves nothing more to train.
    """
    train, limits = results.get("train", {}), stored.trainer
    epochs, steps = train.get("epochs", 0), train.get("steps", 0)
    cut_short = steps == limits.max_steps or limits.max_time is not None  # perhaps inside its last epoch
    complete_epochs = epochs - 1 if cut_short else epochs
    for key, complete, trained in (
        ("max_steps", steps, f"{steps} steps"),
        ("max_epochs", complete_epochs, f"{epochs} epochs"),
    ):
        limit = cfg.trainer[key]
        if limit is not None and 0 <= limit <= complete:
            raise UserError(f"trainer.{key}={limit}: the run has {trained} already; expected more")
    limit, before = cfg.trainer.max_time, limits.max_time
    if limit is None or before is None:
        return
    time_is_up = steps != limits.max_steps and epochs != limits.max_epochs
    if _seconds(limit) < _seconds(before) or (time_is_up and limit == before):
        raise UserError(f"trainer.max_time={limit}: the run has had {before} already; expected more")


def _seconds(time: str) -> int:
    """Seconds of days:hours:minutes:seconds."""
    days, hours, minutes, seconds = map(int, time.split(":"))
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def told(cfg: DictConfig, overrides: list[str], before: dict[str, Any]) -> dict[str, Any]:
    """Model, data, beta and what else was typed and moves numbers, as plain values: what TensorBoard tells runs by.

    Args:
        cfg: The settled configuration.
        overrides: What was typed.
        before: What the run was told when it began; empty if it begins now.
    """
    choices = HydraConfig.get().runtime.choices
    chosen = before or {key: choices[key] for key in ("model", "data", "beta")}
    for key in map(key_of, overrides):
        if not tells_apart(key):
            continue
        value = choices[key] if key in choices else OmegaConf.select(cfg, key)
        chosen[key] = value if isinstance(value, int | float | str | bool) else str(value)
    return chosen | {"seed": cfg.seed}


TRAIN = Door("train", Train, check, run, compare=compare)
