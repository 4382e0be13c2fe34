"""train.py: decides whether a run starts, continues or is finished, then trains it."""

import os
import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from saaae.cli.command import Command
from saaae.cli.multirun import compare
from saaae.config.resolvers import OUTPUTS
from saaae.config.schema import Train
from saaae.config.settings import marked
from saaae.config.validation import clashes
from saaae.errors import Pruned, RunFailedError, UserError
from saaae.ranges import LENGTH
from saaae.runs.folder import RunFolder
from saaae.runs.run import Run, resolve_config, resumed, run_of_job
from saaae.runs.source import weights_file
from saaae.runs.stages import check_sizes
from saaae.runs.status import locked, read_status, recorded
from saaae.signals import Interrupted, Interruption
from saaae.sweeps.runs import is_sweep
from saaae.training.distributed import exit_with_parent, job_processes, rank, started_by_launcher
from saaae.training.malloc import keep_freed_blocks
from saaae.training.objective import is_trial, values_of

LONGEST_NAME = 200
"""Bytes of a folder's name: file systems allow 255, and files in it are named after it."""


def check(cfg: DictConfig, overrides: list[str]) -> None:
    """Everything about a job that can be refused before torch is imported.

    Raises:
        UserError: Naming the key or folder.
    """
    if cfg.resume == "":
        raise UserError("resume=: expected a run folder")
    if cfg.name is not None:
        _check_name(Path(cfg.name))
    if started_by_launcher() and not cfg.name and not cfg.resume:
        raise UserError("name=null: expected a name: the processes of torchrun or srun must agree on the run folder")
    if cfg.resume:
        cfg = resumed(RunFolder(cfg.resume), cfg, overrides)
    elif cfg.init_from is not None and not (cfg.name and (OUTPUTS / cfg.name).exists()):
        weights_file(cfg.init_from)  # a run that has begun needs it no more
    check_sizes(cfg.stages, cfg.data.image_size)
    if cfg.ema is not None and cfg.accelerator.strategy == "fsdp":
        raise UserError(f"ema={cfg.ema}: not with accelerator.strategy=fsdp; expected ddp")
    if cfg.trainer.max_time is not None and _seconds(cfg.trainer.max_time) == 0:
        raise UserError(
            f"trainer.max_time={cfg.trainer.max_time}: no time to train; expected days:hours:minutes:seconds above zero"
        )
    for line in clashes(resolve_config(cfg)):
        raise UserError(line)


def _check_name(name: Path) -> None:
    if not name.parts or ".." in name.parts or name.is_absolute():
        raise UserError(f"name={name}: expected the name of a folder below outputs")
    if any(len(os.fsencode(part)) > LONGEST_NAME for part in name.parts):
        raise UserError(f"name={str(name)[:20]}...: too long; expected at most {LONGEST_NAME} bytes")


def run(cfg: DictConfig) -> float | list[float] | None:
    """Trains a run, continues it, or leaves it alone if it has finished.

    Returns:
        The objectives of a study, of best.ckpt on the validation images; None if there was no validation.
    """
    folder = RunFolder(HydraConfig.get().runtime.output_dir)
    if is_sweep(folder.path):
        raise UserError(f"name={cfg.name}: {folder.label} holds a sweep; choose another name for a single run")
    if rank() > 0:
        return _run_further_process(cfg, folder)
    with locked(folder), Interruption() as interruption, recorded(folder):
        return _run(cfg, folder, interruption)


def _run_further_process(cfg: DictConfig, folder: RunFolder) -> float | list[float] | None:
    """Runs a process of rank 1 or above; messages and exit status of expected failures are left to rank 0."""
    exit_with_parent()
    try:
        with Interruption() as interruption:
            return _run(cfg, folder, interruption)
    except (Interrupted, UserError, RunFailedError):
        sys.exit(0)  # Lightning kills the first process when another one ends with anything else


def _run(cfg: DictConfig, folder: RunFolder, interruption: Interruption) -> float | list[float] | None:
    run = run_of_job(cfg, folder)
    if folder.record.is_file() and (results := _finished(run, resuming=bool(cfg.resume))):
        print(f"{folder.label}: finished already, nothing to do")
        return values_of(run.cfg, results.get("validation", {}))
    if is_trial() and (status := read_status(folder)).get("state") == "pruned":  # a study tries some values twice
        raise Pruned(status["why"])
    if run.cfg.keep_freed_memory:
        keep_freed_blocks()
    from saaae.training.growth import fit_in_stages

    with job_processes():
        return fit_in_stages(run, interruption)


def _finished(run: Run, resuming: bool) -> dict[str, Any]:
    """Content of metrics.json if the run in the folder has finished and is not to be extended; else empty.

    Raises:
        UserError: If the folder holds a run with other settings, or the extension is none.
    """
    if not resuming:
        run.folder.check_same_config(run.cfg)
    stored = run.folder.config()
    other_length = any(OmegaConf.select(run.cfg, key) != OmegaConf.select(stored, key) for key in marked(LENGTH))
    results = _results(run.folder)
    if results and resuming and other_length:
        _check_longer(run.cfg, stored, results)
        return {}
    return results


def _results(folder: RunFolder) -> dict[str, Any]:
    """Content of metrics.json; empty if the run has not finished, or the file is damaged: best.ckpt is tested again."""
    if not folder.metrics.is_file():
        return {}
    try:
        return folder.results()
    except UserError as error:
        print(f"warning: {error}; testing again", file=sys.stderr)
        return {}


def _check_longer(cfg: DictConfig, stored: DictConfig, results: dict[str, Any]) -> None:
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
    for key, enough, trained in (
        ("max_steps", steps, f"{steps} steps"),
        ("max_epochs", complete_epochs, f"{epochs} epochs"),
    ):
        limit = cfg.trainer[key]
        if limit is not None and 0 <= limit <= enough:
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


def dry_build(jobs: list[tuple[DictConfig, list[str]]]) -> list[str]:
    """Builds each different model of a multirun without memory, and its data without reading: what clashes fails now.

    Args:
        jobs: Composed configurations with their overrides.

    Returns:
        One line for each error.
    """
    from saaae.training.build import build_errors

    different = {}
    for cfg in (resolve_config(cfg) for cfg, _ in jobs):
        data = {key: value for key, value in cfg.data.items() if key != "seed"}
        start = [cfg.init_from, cfg.freeze, cfg.stages]
        different[f"{OmegaConf.to_yaml(cfg.model, resolve=True)}{data}{start}"] = cfg
    return build_errors(different.values())


TRAIN = Command("train", Train, check, run, compare=compare, dry_build=dry_build)
