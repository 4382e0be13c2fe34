"""Trains a run, tests its best checkpoint and reports."""

import logging
import os
import sys
from pathlib import Path
from typing import Any

import lightning as L
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig

from saaae.atomic import write_json
from saaae.callbacks.checkpoint import BestCheckpoint, LastCheckpoint
from saaae.callbacks.finite import FiniteGuard
from saaae.callbacks.metrics_csv import rows_before
from saaae.callbacks.progress import EpochLines, ProgressBar
from saaae.callbacks.pruning import Pruning
from saaae.callbacks.resume import RandomState
from saaae.callbacks.step_metrics import StepMetrics
from saaae.callbacks.throughput import Throughput
from saaae.config.settings import plain
from saaae.data.datamodule import ImageDataModule
from saaae.errors import Pruned, RunFailedError, UserError, out_of_memory
from saaae.evaluation.table import averaged, table
from saaae.evaluation.test import report, run_test
from saaae.models.autoencoder import ImageAutoencoder
from saaae.models.averaging import WeightAverage
from saaae.models.lightning import AutoencoderModule
from saaae.runs.checkpoints import Start, data_state, start_of
from saaae.runs.folder import RunFolder
from saaae.runs.provenance import run_record
from saaae.runs.run import Run
from saaae.runs.stages import source_of
from saaae.runs.status import write_status
from saaae.signals import Interruption
from saaae.training.build import build, instantiated, lightning_module, prepared
from saaae.training.checks import check_limits, monitor_of
from saaae.training.devices import make_trainer
from saaae.training.distributed import rank
from saaae.training.initial import record_of_source
from saaae.training.loggers import configured_loggers, start_loggers
from saaae.training.messages import log_to, print_next_steps, print_source, print_start
from saaae.training.objective import is_trial, objectives, values_of, verdict
from saaae.training.process import configure_process
from saaae.training.unsupported import refuse_unsupported

log = logging.getLogger("saaae")


def fit(run: Run, interruption: Interruption) -> float | list[float] | None:
    """Trains a run or continues it, tests best.ckpt and writes the results.

    Nothing in the run folder changes before model and data are built.

    Args:
        run: The run.
        interruption: Whether a signal wants the run to stop.

    Returns:
        The objectives of a study, of best.ckpt; None if the run ended before its first validation.

    Raises:
        Pruned: If its study stopped it.
        UserError: If a part refuses its settings, or the data or a file of the run cannot be read.
        RunFailedError: If numbers are not finite, nothing was trained, memory runs out, or the disk takes no more.
        Interrupted: If a signal ends it.
    """
    cfg, folder = run.cfg, run.folder
    configure_process(cfg)
    model, data = build(cfg)
    monitor, mode = monitor_of(cfg, model, data)
    check_limits(cfg, data)
    start = start_of(folder, model)
    module = _module(run, model, data, start)
    rows_before(folder.curves, start.step)  # a damaged file is reported before anything changes
    loggers = configured_loggers(cfg, folder, start.step) if rank() == 0 else []
    callbacks, throughput = _callbacks(cfg), Throughput()
    if start.checkpoint:  # Lightning does this too late for a sharded model
        data.load_state_dict(data_state(start, folder, data))
        module.on_load_checkpoint(start.content)

    if rank() == 0:
        loggers = _begin(run, module, data, start, loggers)
    best = BestCheckpoint(folder.best, monitor, mode, start.validation)
    pruning = [Pruning(objectives(cfg)[0], verdict())] if is_trial() else []
    trainer = _trainer(run, [*callbacks, throughput, *_guards(cfg), *pruning], best, loggers, interruption)
    _train(trainer, module, data, start.checkpoint)
    _check_trained(trainer, folder, pruning)
    if best.score is None:  # the run ended before its first validation
        trainer.save_checkpoint(folder.best, weights_only=True)

    tester, module = _unsharded(run, module, data) if cfg.accelerator.strategy == "fsdp" else (trainer, module)
    test = run_test(tester, module, data, folder.best)
    if trainer.is_global_zero:
        results = report(run, trainer, module, data, test, best.validation, throughput)
        log.info(table(f"\ntest of best.ckpt ({_choice(best, start)}{averaged(cfg.ema)})", results))
        log.info("\n%.0f images per second in training", throughput.images_per_second)
        print_next_steps(run)
    return values_of(cfg, best.validation)


def _module(run: Run, model: ImageAutoencoder, data: ImageDataModule, start: Start) -> AutoencoderModule:
    """The LightningModule of a run, whose model has the weights to start from and its frozen modules."""
    cfg = run.cfg
    model.freeze(cfg.freeze)
    record = run_record(cfg, data) | record_of_source(source_of(run), model, start)
    module = lightning_module(model, data, cfg, record)
    module.average = None if cfg.ema is None else WeightAverage(cfg.ema)
    return module


def _begin(
    run: Run, module: AutoencoderModule, data: ImageDataModule, start: Start, loggers: list[Logger]
) -> list[Logger]:
    """Writes and prints what the run is, and opens its loggers."""
    began = run.folder.record.is_file() and not run.cfg.stages
    _write_record(run, data, start)
    print_start(run, module.model, data, start, began)
    if not start.checkpoint:
        print_source(module.run_record)
    return start_loggers(run.cfg, run.folder, loggers, start.step)


def _check_trained(trainer: L.Trainer, folder: RunFolder, pruning: list[Pruning]) -> None:
    if pruning and pruning[0].why:
        raise Pruned(pruning[0].why)
    if trainer.global_step == 0:
        raise RunFailedError(f"{folder.label}: no optimizer step was made; expected a longer trainer.max_time")


def _choice(best: BestCheckpoint, start: Start) -> str:
    """Why best.ckpt is the best, for the title of the table."""
    if best.score is not None:
        return f"{best.monitor} {best.score:.4f}"
    return "the last weights: best.ckpt was damaged" if start.best_is_damaged else "before any validation"


def _unsharded(run: Run, sharded: AutoencoderModule, data: ImageDataModule) -> tuple[L.Trainer, AutoencoderModule]:
    """A Trainer and a model that each process has as a whole: some evaluations run in one process."""
    model = prepared(instantiated(run.cfg.model), run.cfg)
    module = lightning_module(model, data, run.cfg, sharded.run_record)
    limit = run.cfg.trainer.limit_test_batches
    options = {"logger": False, "limit_test_batches": limit, "enable_progress_bar": False}
    return make_trainer(run.cfg, run.folder, whole=True, **options), module


def _guards(cfg: DictConfig) -> list[Callback]:
    """The callbacks that every run has."""
    interval = cfg.trainer.log_every_n_steps
    return [FiniteGuard(cfg.on_nonfinite, interval), StepMetrics(interval)]


def _trainer(
    run: Run, callbacks: list[Callback], best: BestCheckpoint, loggers: list[Logger], interruption: Interruption
) -> L.Trainer:
    """The Trainer of a run; Lightning calls the two callbacks that write checkpoints after all others."""
    cfg, folder, checkpoint = run.cfg, run.folder, run.cfg.checkpoint
    last = LastCheckpoint(
        folder.last, folder.previous, checkpoint.every_n_steps, checkpoint.every_n_minutes, interruption
    )
    return make_trainer(
        cfg,
        folder,
        callbacks=[*callbacks, RandomState(cfg.seed), best, last],
        logger=loggers,
        deterministic=cfg.deterministic,
        **_trainer_arguments(cfg),
    )


def _write_record(run: Run, data: ImageDataModule, start: Start) -> None:
    """Writes what the run is and what its splits consist of; the first change of its folder.

    Raises:
        UserError: If the data are not those that a continued run began with.
    """
    folder = run.folder
    splits = {"hash": data.split_hash(), "seed": run.cfg.seed, **data.manifest()}
    if start.step and (differing := folder.other_data(splits)):
        raise UserError(
            f"{folder.label}: its data have changed since it began ({differing}); put them back, or choose another name"
        )
    write_status(folder, "running")
    folder.metrics.unlink(missing_ok=True)  # before the record: a kill between the two must not look like a finish
    folder.write_record(run.cfg, run.overrides, run.tags)
    write_json(folder.splits, splits)
    if start.checkpoint == folder.previous and folder.last.is_file():  # never to replace the only intact one
        os.replace(folder.last, folder.checkpoints / "damaged.ckpt")
    log_to(folder.log)


def _train(trainer: L.Trainer, module: AutoencoderModule, data: ImageDataModule, resume: Path | None) -> None:
    """Trains; failures that users can fix become one line."""
    try:
        trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    except MisconfigurationException as error:
        raise UserError(f"trainer: {str(error).splitlines()[0]}") from None
    except OSError as error:  # TensorBoard's does not know its file
        error.filename = error.filename or trainer.default_root_dir
        raise
    except (RuntimeError, MemoryError) as error:
        if reason := out_of_memory(error):
            raise RunFailedError(f"out of memory ({reason}); a smaller data.batch_size may help") from error
        if "deterministic" not in str(error):
            raise
        raise UserError(f"deterministic=true: {str(error).splitlines()[0]}") from error


def _callbacks(cfg: DictConfig) -> list[Callback]:
    """Those of the configuration, and progress; a sharded model has the latter only."""
    nodes = [] if cfg.accelerator.strategy == "fsdp" else list(cfg.callbacks.values())
    callbacks: list[Callback] = [instantiate(node, _convert_="all") for node in nodes]
    refuse_unsupported(zip(cfg.callbacks, callbacks, strict=False))
    if cfg.trainer.enable_progress_bar:
        callbacks.append(ProgressBar() if sys.stderr.isatty() else EpochLines())
    return callbacks


def _trainer_arguments(cfg: DictConfig) -> dict[str, Any]:
    return plain(cfg.trainer, resolve=True) | {"enable_progress_bar": False}  # ours is a callback
