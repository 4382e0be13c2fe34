"""What has become of a run: status.json in its folder, and the lock that keeps a second process out."""

import getpass
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from saaae.errors import UserError
from saaae.runs.folder import RunFolder, write_json

State = Literal["running", "done", "failed", "preempted"]


def write_status(folder: RunFolder, state: State, why: str = "") -> None:
    """Records the state of a run, and who brought it there.

    Args:
        folder: The run folder.
        state: `running`, `done`, `failed`, or `preempted`: stopped by a signal, with a checkpoint to go on from.
        why: The reason of a failure, or the signal.
    """
    write_json(folder.status, {"state": state, "why": why, **_owner()})


def read_status(folder: RunFolder) -> dict[str, Any]:
    """What status.json says; empty where there is none. A run whose process was killed still says `running`."""
    try:
        return json.loads(folder.status.read_text())
    except (OSError, ValueError):
        return {}


def _owner() -> dict[str, Any]:
    now = f"{datetime.now():%Y-%m-%d %H:%M:%S}"
    return {"host": platform.node(), "process": os.getpid(), "user": _user(), "since": now}


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return str(os.getuid())


@contextmanager
def locked(folder: RunFolder, shown: Path) -> Iterator[None]:
    """Keeps every other process out of a run folder; the system lets go of the lock of a process that dies.

    A folder that nothing came of is left without the lock's files.

    Raises:
        UserError: If another process is at work there, naming it.
    """
    folder.path.mkdir(parents=True, exist_ok=True)
    lock, owner = FileLock(folder.path / ".lock", blocking=False), folder.path / ".owner"
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"{shown}: {_named(owner)}; wait for it, stop it, or choose another name") from None
    try:
        _sweep(folder)
        write_json(owner, _owner())
        yield
    finally:
        with suppress(FileNotFoundError):
            owner.unlink()
        if [path.name for path in folder.path.iterdir()] == [".lock"]:
            Path(lock.lock_file).unlink()
        lock.release()


def _named(owner: Path) -> str:
    try:
        who = json.loads(owner.read_text())
    except (OSError, ValueError):
        return "another process is at work there"
    return "process {process} of {user} on {host} is at work there since {since}".format(**who)


def _sweep(folder: RunFolder) -> None:
    """Removes what killed processes left half written."""
    for partial in folder.path.rglob(".*.part"):
        with suppress(FileNotFoundError):
            partial.unlink()
