"""Builds model, data and trainer from a settled configuration; trains, tests, reports."""

import logging
import os
import sys
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig
from torch import Tensor

from saaae.callbacks.checkpoint import BestCheckpoint, LastCheckpoint
from saaae.callbacks.finite import FiniteGuard
from saaae.callbacks.interruption import Interruption
from saaae.callbacks.metrics_csv import rows_before
from saaae.callbacks.progress import EpochLines, ProgressBar
from saaae.callbacks.pruning import Pruning
from saaae.callbacks.resume import RandomState
from saaae.callbacks.throughput import Throughput
from saaae.callbacks.training_log import TrainingLog
from saaae.data.datamodule import SPLITS, ImageDataModule
from saaae.data.folder import FolderData
from saaae.errors import Pruned, RunFailedError, UserError, disk_fault, out_of_memory
from saaae.metrics.speckle import speckle_quality
from saaae.models.autoencoder import ImageAutoencoder, LatentChoice
from saaae.models.lightning import AutoencoderModule
from saaae.runs.checkpoints import Start, data_state, start_of
from saaae.runs.devices import make_trainer, num_processes, prepare_networks, refuse_absent_devices
from saaae.runs.folder import RunFolder, plain, quoted, write_json
from saaae.runs.loggers import configured_loggers, start_loggers
from saaae.runs.memory import within_memory
from saaae.runs.processes import rank
from saaae.runs.report import table
from saaae.runs.results import report, run_record, run_test
from saaae.runs.status import write_status
from saaae.runs.study import MINIMIZED, in_study, is_trial, objectives, values_of, verdict
from saaae.runs.unsupported import refuse_unsupported
from saaae.types import Batch

log = logging.getLogger("saaae")


def radar_scores(x_hat: Tensor, batch: Batch) -> dict[str, Tensor]:
    """What speckle filtering is judged by."""
    return speckle_quality(x_hat, batch.input, batch.clean, batch.window)


def set_up(cfg: DictConfig) -> None:
    """Process-wide settings: quiet libraries, seed, threads, float32 products; refuses an absent device."""
    logging.raiseExceptions = False  # a reader that goes away (`| head`) must not disturb the run
    logging.getLogger("lightning").setLevel(logging.WARNING)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*LeafSpec.*",
        ".*your dataloader is not resumable.*",  # the data module is
        ".*is smaller than the logging interval.*",
        ".*recommended to use `self.log.*sync_dist=True.*",  # what is logged so is the same in every process
        ".*it is recommended to use `Trainer\\(devices=1.*",  # no image is tested twice
        ".*The `srun` command is available.*",  # SLURM's login node is not SLURM's job
        ".*Multiple backends are registered with this ProcessGroup.*",  # of FSDP2 on CPUs
        ".*`_get_pg_default_device` will be deprecated.*",
    ):
        warnings.filterwarnings("ignore", message)
    threading.excepthook = _quiet_about_full_disks
    accelerator = cfg.accelerator
    refuse_absent_devices(accelerator)
    if cfg.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # CUDA's own condition
    if cfg.threads:
        torch.set_num_threads(cfg.threads)
    torch.set_float32_matmul_precision(accelerator.matmul_precision)
    L.seed_everything(cfg.seed, workers=True, verbose=False)


def _quiet_about_full_disks(args: threading.ExceptHookArgs) -> None:
    """TensorBoard's writing thread would print a stack trace; the run itself ends by the same error, in one line."""
    if args.exc_value is None or not disk_fault(args.exc_value):
        threading.__excepthook__(args)


def build(cfg: DictConfig, test_all: bool = False) -> tuple[ImageAutoencoder, ImageDataModule]:
    """Model and loaded data of a configuration.

    Args:
        cfg: Resolved configuration.
        test_all: Whether all images of a folder test, for a model that was not trained on any of them.

    Raises:
        UserError: If a part refuses its settings or the data cannot be read.
    """
    with within_memory(cfg, "model"):
        model = _made(cfg.model)
    with within_memory(cfg, "data"):
        data = _made(cfg.data)
        if test_all and isinstance(data, FolderData):
            data.test_all = True
        data.prepare_data()
        data.setup()
    return _completed(model, cfg), data


def _made(node: DictConfig) -> Any:
    try:
        return instantiate(node, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        raise (cause if isinstance(cause, UserError) or (cause and out_of_memory(cause)) else error) from None


def _completed(model: ImageAutoencoder, cfg: DictConfig) -> ImageAutoencoder:
    """A fresh model with its networks in the configured precision and memory format."""
    prepare_networks(model, cfg.accelerator)
    return model


def lightning_module(
    model: ImageAutoencoder,
    data: ImageDataModule,
    cfg: DictConfig,
    record: Mapping[str, Any] | None = None,
    latents: LatentChoice = "mean",
) -> AutoencoderModule:
    """The LightningModule that trains and tests a model.

    Args:
        model: The torch model.
        data: Its data.
        cfg: Resolved configuration, which checkpoints store.
        record: Seed, versions, data and device of the run, which checkpoints store.
        latents: Latents of the reconstructions that metrics compare.
    """
    return AutoencoderModule(
        model,
        log_every_n_steps=cfg.trainer.log_every_n_steps,
        importance_samples=cfg.importance_samples,
        domain_scores=radar_scores if data.field == "radar" else None,
        latents=latents,
        run_config=plain(cfg),
        run_record=record,
    )


OF_BOUND = ("val/elbo", "val/kl", "val/bits_per_dim")
"""Metrics of models with a KL only."""


def monitor_of(cfg: DictConfig, model: ImageAutoencoder, data: ImageDataModule) -> tuple[str, str]:
    """What chooses best.ckpt, and whether it is maximised: never a quantity that beta moves.

    Raises:
        UserError: If the model or the data do not have it, or not what a study is about.
    """
    monitor = cfg.checkpoint.monitor or ("val/elbo" if model.has_bound else "val/ssim")
    asked = {"checkpoint.monitor": [monitor], "objective": objectives(cfg) if cfg.objective or in_study() else []}
    example = data.batch("val", torch.zeros(1, dtype=torch.long))
    for key, name in ((key, name) for key, names in asked.items() for name in names):
        if name in OF_BOUND and not model.has_bound:
            raise UserError(f"{key}={name}: this model has no KL and no ELBO; expected val/ssim")
        if name.endswith("_clean") and (example.clean is None or example.clean is example.target):
            raise UserError(f"{key}={name}: these data have no clean reference beside the target")
    return monitor, "min" if monitor in MINIMIZED else "max"


def check_limits(cfg: DictConfig, data: ImageDataModule) -> None:
    """Compares what counts batches with the batches that there are.

    Raises:
        UserError: If nothing would be left of a split, or validation would never come.
    """
    trainer, processes = cfg.trainer, num_processes(cfg.accelerator)
    images_a_step = data.batch_size * processes
    for split in SPLITS:
        if data.num_images(split) < processes:
            raise UserError(f"accelerator.devices={processes}: more than the {data.num_images(split)} {split} images")
        limit, batches = trainer[f"limit_{split}_batches"], -(-data.num_images(split) // images_a_step)
        if isinstance(limit, float) and int(limit * batches) == 0:
            raise UserError(f"trainer.limit_{split}_batches={limit}: leaves none of {batches} batches")
    batches, every = -(-data.num_images("train") // images_a_step), trainer.val_check_interval
    if isinstance(every, int) and every > batches and trainer.check_val_every_n_epoch is not None:
        raise UserError(
            f"trainer.val_check_interval={every}: an epoch has {batches} batches; "
            "expected fewer, or trainer.check_val_every_n_epoch=null as well"
        )


def fit(
    cfg: DictConfig,
    folder: RunFolder,
    shown: Path,
    overrides: list[str],
    told: dict[str, Any],
    interruption: Interruption,
) -> float | list[float] | None:
    """Trains (or continues) the run in `folder`, tests best.ckpt and writes the results.

    Nothing in the folder changes before model and data are built.

    Args:
        cfg: Settled configuration.
        folder: The run folder.
        shown: The folder as the user would type it.
        overrides: What was typed, also when the run began.
        told: What tells this run from others, for the table of hyperparameters in TensorBoard.
        interruption: Tells whether a signal wants the run to stop.

    Returns:
        The objectives of a study, of best.ckpt; None if the run ended before its first validation.

    Raises:
        Pruned: If a study gave up on it.
        UserError: If a part refuses its settings, or the data or a file of the run cannot be read.
        RunFailedError: If numbers are not finite, nothing was trained, memory runs out, or the disk takes no more.
        Interrupted: If a signal ends it.
    """
    set_up(cfg)
    model, data = build(cfg)
    monitor, mode = monitor_of(cfg, model, data)
    check_limits(cfg, data)
    module = lightning_module(model, data, cfg, run_record(cfg, data))
    start = start_of(folder, model)
    loggers = configured_loggers(cfg, folder, start.step) if rank() == 0 else []

    if start.checkpoint:  # where the model is sharded Lightning does so too late
        data.load_state_dict(data_state(start, folder, data))
        module.on_load_checkpoint(start.content)

    rows_before(folder.curves, start.step)  # a damaged file is reported before anything changes
    own_callbacks, throughput = _callbacks(cfg), Throughput()
    began = folder.record.is_file()
    if rank() == 0:
        _claim(folder, cfg, overrides, told, data, shown, start)
        _announce(model, data, shown, start, began, cfg.accelerator.strategy == "fsdp")
        loggers = start_loggers(cfg, folder, loggers, start.step)
    best = BestCheckpoint(folder.best, monitor, mode, start.validation)
    pruning = [Pruning(objectives(cfg)[0], verdict())] if is_trial() else []
    callbacks = [*own_callbacks, throughput, *_guards(cfg), *pruning]
    trainer = _trainer(cfg, folder, callbacks, best, loggers, interruption)
    _train(trainer, module, data, start.checkpoint)
    if pruning and pruning[0].why:
        raise Pruned(pruning[0].why)
    if trainer.global_step == 0:
        raise RunFailedError(f"{shown}: not a single optimizer step was trained; expected a longer trainer.max_time")
    if best.score is None:  # the run ended before its first validation
        trainer.save_checkpoint(folder.best, weights_only=True)

    tester = trainer
    if cfg.accelerator.strategy == "fsdp":
        module, tester = _whole(cfg, folder, module, data)
    test = run_test(tester, module, data, folder.best)
    if trainer.is_global_zero:
        results = report(
            trainer, module, data, folder, shown, test, best.validation, told, throughput, cfg.pictures.count
        )
        none = "the last weights: best.ckpt was damaged" if start.best_is_damaged else "before any validation"
        chosen = none if best.score is None else f"{monitor} {best.score:.4f}"
        log.info(table(f"\ntest of best.ckpt ({chosen})", results))
        log.info("\n%.0f images per second in training", throughput.images_per_second)
        _point_to(shown, folder)
    return values_of(cfg, best.validation)


def _whole(
    cfg: DictConfig, folder: RunFolder, sharded: AutoencoderModule, data: ImageDataModule
) -> tuple[AutoencoderModule, L.Trainer]:
    """A model for each process, and what tests it: not everything is asked of a trained model in all processes."""
    module = lightning_module(_completed(_made(cfg.model), cfg), data, cfg, sharded.run_record)
    limit = cfg.trainer.limit_test_batches
    return module, make_trainer(
        cfg, folder, whole=True, logger=False, limit_test_batches=limit, enable_progress_bar=False
    )


def _guards(cfg: DictConfig) -> list[Callback]:
    """The callbacks that every run has."""
    interval = cfg.trainer.log_every_n_steps
    return [FiniteGuard(cfg.on_nonfinite, interval), TrainingLog(interval)]


def _trainer(
    cfg: DictConfig,
    folder: RunFolder,
    callbacks: list[Callback],
    best: BestCheckpoint,
    loggers: list[Logger],
    interruption: Interruption,
) -> L.Trainer:
    """The Trainer of a run; Lightning calls the two callbacks that write checkpoints after all others."""
    checkpoint = cfg.checkpoint
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


def _claim(
    folder: RunFolder,
    cfg: DictConfig,
    overrides: list[str],
    told: dict[str, Any],
    data: ImageDataModule,
    shown: Path,
    start: Start,
) -> None:
    """Records what the run is and what its splits are made of; from here on its folder changes.

    Raises:
        UserError: If the data are not those that a continued run began with.
    """
    splits = {"hash": data.split_hash(), "seed": cfg.seed, **data.manifest()}
    if start.step and (differing := folder.other_data(splits)):
        raise UserError(
            f"{shown}: its data have changed since it began ({differing}); put them back, or choose another name"
        )
    write_status(folder, "running")
    folder.metrics.unlink(missing_ok=True)  # before the record: a kill between the two must not look like a finish
    folder.write_record(cfg, overrides, told)
    write_json(folder.splits, splits)
    if start.checkpoint == folder.previous and folder.last.is_file():  # never to replace the only intact one
        os.replace(folder.last, folder.checkpoints / "damaged.ckpt")
    _log_to(folder.log)


def _point_to(shown: Path, folder: RunFolder) -> None:
    """Says where to look, and what to do next."""
    log.info("pictures     %s", shown / folder.picture("reconstructions").name)
    log.info("             %s", shown / folder.pictures.name)
    log.info("curves       tensorboard --logdir %s", shown)
    log.info("test again   python evaluate.py run=%s", quoted(shown))


def _train(trainer: L.Trainer, module: AutoencoderModule, data: ImageDataModule, resume: Path | None) -> None:
    """Fits; what users can mend is said in one line."""
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


def _announce(
    model: ImageAutoencoder, data: ImageDataModule, shown: Path, start: Start, began: bool, sharded: bool
) -> None:
    counts = ", ".join(f"{data.num_images(split)} {split}" for split in SPLITS)
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    code = "x".join(map(str, model.latent_shape))
    for line in start.damaged:
        log.warning("warning: %s; passed over", line)
    anew = " (no checkpoint to continue from: begins anew)" if began else ""
    log.info("run          %s%s", shown, f" (continued from step {start.step})" if start.step else anew)
    log.info("data         %s images of %d pixels", counts, data.image_size)
    manifest = data.manifest()
    for reason, count in manifest["left_out"].items():
        log.info("left out     %d %s", count, reason)
    for name, why in manifest["skipped"].items():
        log.info("skipped      %s (%s)", name, why)
    for line in manifest.get("warnings", []):
        log.warning("warning: %s", line)
    log.info("model        %s, %.2f M parameters, code %s", type(model).__name__, parameters, code)
    if model.caveat:
        log.info("caveat       %s", model.caveat)
    if sharded:
        log.info("pictures     none during training: a model in parts cannot be looked at in one process")


def _log_to(path: Path) -> None:
    """Messages go to the terminal and to train.log; a later job of a sweep gets its own log."""
    for handler in log.handlers[:]:
        log.removeHandler(handler)
        handler.close()
    path.parent.mkdir(parents=True, exist_ok=True)
    for handler in (logging.StreamHandler(sys.stdout), logging.FileHandler(path)):
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


def _callbacks(cfg: DictConfig) -> list[Callback]:
    """Those of the configuration, and progress; sharded models cannot be looked at in one process alone."""
    nodes = [] if cfg.accelerator.strategy == "fsdp" else list(cfg.callbacks.values())
    callbacks: list[Callback] = [instantiate(node, _convert_="all") for node in nodes]
    refuse_unsupported(zip(cfg.callbacks, callbacks, strict=False))
    if cfg.trainer.enable_progress_bar:
        callbacks.append(ProgressBar() if sys.stderr.isatty() else EpochLines())
    return callbacks


def _trainer_arguments(cfg: DictConfig) -> dict[str, Any]:
    return plain(cfg.trainer, resolve=True) | {"enable_progress_bar": False}  # ours is a callback
