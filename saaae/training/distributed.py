"""Distributed processes of one run: their ranks, and how they start inside a sweep."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import open_dict, read_write

MADE_BY_LIGHTNING = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def rank() -> int:
    """Rank of this process in its run, as set by torchrun, SLURM or Lightning; rank 0 writes and prints."""
    names = ("RANK", *(["SLURM_PROCID"] if _is_slurm_task() else []), "LOCAL_RANK")
    return next((int(os.environ[name]) for name in names if name in os.environ), 0)


def started_by_launcher() -> bool:
    """Whether torchrun or SLURM has started several processes with this command, not Lightning as it needs them."""
    return "RANK" in os.environ or _is_slurm_task()


def _is_slurm_task() -> bool:
    """Whether this process is one of several tasks of srun; a shell inside an allocation has a SLURM_PROCID too."""
    return "SLURM_PROCID" in os.environ and int(os.environ.get("SLURM_NTASKS", 1)) > 1


def exit_with_parent() -> None:
    """Ends this process soon after the one that started it: a killed run must not leave others waiting for it."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def job_processes() -> Iterator[None]:
    """Lightning starts further processes by repeating the command line: inside a sweep, that of this one job.

    In a process of a launcher the command line is the launcher's own, and so is the main module.

    Afterwards nothing of them is left in the environment, or the next job would believe that somebody else had
    started its processes, and wait for them.
    """
    hydra = HydraConfig.get()
    argv, directory, main = sys.argv, hydra.run.dir, sys.modules["__main__"]
    module = main.__spec__
    words = sys.argv[1:]
    if hydra.mode == RunMode.MULTIRUN:
        words = [*_added_folder(), *hydra.overrides.task]
        _set_run_folder(hydra.runtime.output_dir)
    if script().is_file():
        sys.argv, main.__spec__ = [str(script()), *words], None
    else:  # an installed package: python -m saaae train ...
        sys.argv, main.__spec__ = [sys.argv[0], str(hydra.job.config_name), *words], find_spec("saaae.__main__")
    try:
        yield
    finally:
        sys.argv, main.__spec__ = argv, module
        _set_run_folder(directory)
        _clear_process_group()


def _added_folder() -> list[str]:
    """The option `--config-dir` of this command, if it was given."""
    sources = HydraConfig.get().runtime.config_sources
    return [word for s in sources if s.provider == "command-line" for word in ("--config-dir", s.path)]


def script() -> Path:
    """The entry point that this process works for: it stands beside the configurations."""
    hydra = HydraConfig.get()
    configurations = next(source.path for source in hydra.runtime.config_sources if source.provider == "main")
    return Path(configurations).parent / f"{hydra.job.config_name}.py"


def _set_run_folder(directory: str) -> None:
    cfg: Any = HydraConfig.instance().cfg
    if cfg is None:  # the interpreter is exiting
        return
    with read_write(cfg.hydra), open_dict(cfg.hydra), read_write(cfg.hydra.run):
        cfg.hydra.run.dir = directory


def _clear_process_group() -> None:
    for thread in threading.enumerate():
        if thread.name == "child-process-observer":  # Lightning's: would kill the next job for how this one ended
            thread._finished = True  # type: ignore[attr-defined]
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
    if "TORCHELASTIC_RUN_ID" not in os.environ and not _is_slurm_task():
        for name in MADE_BY_LIGHTNING:
            os.environ.pop(name, None)
