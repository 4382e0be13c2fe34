"""How the jobs of one launch ended: files in the sweep's folder, since a launcher may run jobs on any machine."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from shutil import rmtree
from typing import NamedTuple

from saaae.atomic import write_json

DONE, FAILED, USAGE_ERROR = 0, 1, 2

RUNNING = -1


class Outcome(NamedTuple):
    """How one job of a multirun ended.

    Attributes:
        number: Its place in the sweep.
        folder: Its run folder.
        status: Its exit status; RUNNING until it ends.
        why: A failure's reason, or the signal that stopped it.
    """

    number: int
    folder: str
    status: int = RUNNING
    why: str = ""

    @property
    def state(self) -> str:
        words = {DONE: "pruned" if self.why else "done", FAILED: "failed", USAGE_ERROR: "failed", RUNNING: "lost"}
        return words.get(self.status, "preempted")


class Launch:
    """One start of a multirun, whose jobs record how they ended.

    Not in status.json of the run folders: a job that is refused must leave the status of another run as it is.

    Args:
        sweep: The sweep's folder.
        stamp: Tells this start from others.
        launcher: The launcher that was chosen; None for Hydra's own, which runs one job after the other.
    """

    def __init__(self, sweep: Path, stamp: str, launcher: str | None) -> None:
        self.sweep, self.folder, self.launcher = sweep, sweep / ".jobs" / stamp, launcher

    def record(self, outcome: Outcome) -> None:
        """Stores the state of a job."""
        write_json(self.folder / f"{outcome.number}.json", outcome._asdict())

    def outcomes(self) -> list[Outcome]:
        """Recorded outcomes of the jobs, in their order."""
        outcomes = [Outcome(**json.loads(path.read_text())) for path in self.folder.glob("*.json")]
        return sorted(outcomes, key=lambda outcome: outcome.number)

    def cleanup(self) -> None:
        rmtree(self.folder, ignore_errors=True)
        if self.folder.parent.is_dir() and not os.listdir(self.folder.parent):
            self.folder.parent.rmdir()


def exit_status(outcomes: Sequence[Outcome]) -> int:
    """Of a whole multirun: a run that failed or was lost outranks a usage error."""
    worst = (DONE, USAGE_ERROR, FAILED)
    return max((o.status if o.status in worst else FAILED for o in outcomes), key=worst.index, default=DONE)
