"""Settings of the whole process: quiet libraries, seed, threads."""

import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import lightning as L
import torch
from omegaconf import DictConfig

from saaae.errors import disk_error
from saaae.training.devices import check_devices

LIBRARIES = ("lightning", "lightning.pytorch", "lightning.fabric")
"""Loggers that are quiet during a run."""


def configure_process(cfg: DictConfig) -> None:
    """Process-wide settings: log levels, seed, threads, float32 matrix products; checks the devices."""
    logging.raiseExceptions = False  # a reader that goes away (`| head`) must not disturb the run
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*LeafSpec.*",
        ".*your dataloader is not resumable.*",  # the data module is
        ".*is smaller than the logging interval.*",
        ".*in eval mode at the start of training.*",  # frozen modules
        ".*recommended to use `self.log.*sync_dist=True.*",  # what is logged so is the same in every process
        ".*it is recommended to use `Trainer\\(devices=1.*",  # no image is tested twice
        ".*The `srun` command is available.*",  # SLURM's login node is not SLURM's job
        ".*Multiple backends are registered with this ProcessGroup.*",  # of FSDP2 on CPUs
        ".*`_get_pg_default_device` will be deprecated.*",
    ):
        warnings.filterwarnings("ignore", message)
    threading.excepthook = _quiet_about_full_disks
    accelerator = cfg.accelerator
    check_devices(accelerator)
    if cfg.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # CUDA's own condition
    if cfg.threads:
        torch.set_num_threads(cfg.threads)
    torch.set_float32_matmul_precision(accelerator.matmul_precision)
    L.seed_everything(cfg.seed, workers=True, verbose=False)


@contextmanager
def unchanged_process() -> Iterator[None]:
    """Puts back what a run sets for the whole process, but the states of the random generators."""
    log, hook, raising = logging.getLogger("saaae"), threading.excepthook, logging.raiseExceptions
    handlers, level, propagate = log.handlers[:], log.level, log.propagate
    levels = {name: logging.getLogger(name).level for name in LIBRARIES}
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only, environment = torch.is_deterministic_algorithms_warn_only_enabled(), dict(os.environ)
    log.handlers.clear()  # a run closes those that it finds
    try:
        with warnings.catch_warnings():
            yield
    finally:
        for handler in log.handlers:
            handler.close()
        log.handlers, log.propagate = handlers, propagate
        log.setLevel(level)
        for name, before in levels.items():
            logging.getLogger(name).setLevel(before)
        threading.excepthook, logging.raiseExceptions = hook, raising
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)


def _quiet_about_full_disks(args: threading.ExceptHookArgs) -> None:
    """TensorBoard's writing thread would print a stack trace; the run itself ends by the same error, in one line."""
    if args.exc_value is None or not disk_error(args.exc_value):
        threading.__excepthook__(args)
