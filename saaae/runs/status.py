"""State of a run in status.json, and the lock against a second process."""

import getpass
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from saaae.atomic import read_json_or_empty, write_json
from saaae.config.overrides import quoted
from saaae.errors import Pruned, UserError
from saaae.runs.folder import RunFolder
from saaae.signals import Interrupted

State = Literal["running", "done", "failed", "preempted", "pruned"]


def write_status(folder: RunFolder, state: State, why: str = "") -> None:
    """Records the state of a run, and the process that set it.

    Args:
        folder: The run folder.
        state: `running`, `done`, `failed`, `preempted`: stopped by a signal, with a checkpoint to continue from, or
            `pruned`: given up by its study.
        why: The reason of a failure, or the signal.
    """
    write_json(folder.status, {"state": state, "why": why, **_owner()})


def read_status(folder: RunFolder) -> dict[str, Any]:
    """What status.json says; empty where there is none. A run whose process was killed still says `running`."""
    return read_json_or_empty(folder.status)


def _owner() -> dict[str, Any]:
    now = f"{datetime.now():%Y-%m-%d %H:%M:%S}"
    return {"host": platform.node(), "process": os.getpid(), "user": _user(), "since": now}


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return str(os.getuid())


@contextmanager
def locked(folder: RunFolder) -> Iterator[None]:
    """Locks a run folder; the system releases the lock of a process that dies.

    Removes the lock's files from an otherwise empty folder.

    Raises:
        UserError: If another process writes to the folder, naming it.
    """
    from filelock import FileLock, Timeout  # imports asyncio, which usage errors do not need

    folder.path.mkdir(parents=True, exist_ok=True)
    lock, owner = FileLock(folder.path / ".lock", blocking=False), folder.owner
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"{folder.label}: {_owner_message(owner)}; wait for it, stop it, or choose another name"
        ) from None
    try:
        _remove_partial_files(folder)
        write_json(owner, _owner())
        yield
    finally:
        with suppress(FileNotFoundError):  # the folder may have been deleted
            owner.unlink()
            if [path.name for path in folder.path.iterdir()] == [".lock"]:
                Path(lock.lock_file).unlink()
        lock.release()


def is_locked(folder: RunFolder) -> bool:
    """Whether a process writes to a run folder."""
    from filelock import FileLock, Timeout

    if not (folder.path / ".lock").is_file():
        return False
    try:
        with FileLock(folder.path / ".lock", blocking=False):
            return False
    except Timeout:
        return True


def _owner_message(owner: Path) -> str:
    if who := read_json_or_empty(owner):
        return "process {process} of {user} on {host} is at work there since {since}".format(**who)
    return "another process is at work there"


def _remove_partial_files(folder: RunFolder) -> None:
    """Removes partial files of killed processes."""
    evaluations = folder.path / "evaluation"  # evaluate.py takes no lock: it may be writing there
    for partial in (path for path in folder.path.rglob(".*.part") if not path.is_relative_to(evaluations)):
        with suppress(FileNotFoundError):
            partial.unlink()


@contextmanager
def recorded(folder: RunFolder) -> Iterator[None]:
    """Records in status.json how a run ended; creates no files if startup fails."""
    try:
        yield
    except Interrupted as stop:
        began = _is_ours(folder)
        if began and folder.metrics.is_file():  # interrupted after its last step
            _record(folder, "done")
            raise
        hint = (
            f"continue with   python train.py resume={quoted(folder.label)}" if began else "repeat the command to begin"
        )
        hint = "queued again" if stop.signal in ("SIGUSR1", "SIGUSR2") else hint
        if began:
            _record(folder, "preempted", stop.signal)
        print(f"{stop.signal}: stopped; {hint}", flush=True)
        raise
    except Pruned as stop:
        _record(folder, "pruned", str(stop))
        raise
    except Exception as error:
        unknown_job = HydraConfig.get().mode == RunMode.MULTIRUN and not folder.status.is_file()
        if _is_ours(folder) or unknown_job:
            _record(folder, "failed", " ".join(str(error).split()) or type(error).__name__)
        raise
    if folder.metrics.is_file() and read_status(folder).get("state") != "done":
        _record(folder, "done")


def _is_ours(folder: RunFolder) -> bool:
    """Whether this process started or resumed the run."""
    status = read_status(folder)
    return status.get("state") == "running" and status.get("process") == os.getpid()


def _record(folder: RunFolder, state: State, why: str = "") -> None:
    with suppress(OSError):  # a full disk is what this is about
        write_status(folder, state, why)
        if why and folder.log.is_file():
            with folder.log.open("a") as log:
                log.write(f"{state}: {why}\n")
