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
    who = {"host": platform.node(), "process": os.getpid(), "user": _user()}
    write_json(folder.status, {"state": state, "why": why, **who, "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}"})


def read_status(folder: RunFolder) -> dict[str, Any]:
    """What status.json says; empty where there is none. A run whose process was killed still says `running`."""
    try:
        return json.loads(folder.status.read_text())
    except (OSError, ValueError):
        return {}


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return str(os.getuid())


@contextmanager
def locked(folder: RunFolder, shown: Path) -> Iterator[None]:
    """Keeps every other process out of a run folder; the system lets go of the lock of a process that dies.

    A folder that nothing came of is left without the lock's file.

    Raises:
        UserError: If another process is at work there, naming it.
    """
    folder.path.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.path / ".lock", blocking=False)
    try:
        lock.acquire()
    except Timeout:
        owner = read_status(folder)
        who = "process {process} of {user} on {host}, since {since}".format(**owner) if owner else "another process"
        raise UserError(f"{shown}: {who} is at work there; wait for it, stop it, or choose another name") from None
    try:
        _sweep(folder)
        yield
    finally:
        if [path.name for path in folder.path.iterdir()] == [".lock"]:
            Path(lock.lock_file).unlink()
        lock.release()


def _sweep(folder: RunFolder) -> None:
    """Removes what killed processes left half written."""
    for partial in folder.path.rglob(".*.part"):
        with suppress(FileNotFoundError):
            partial.unlink()
