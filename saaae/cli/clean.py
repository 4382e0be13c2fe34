"""`saaae clean`: deletes what is not needed for any result."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from saaae.cli.console import ConsoleCommand
from saaae.cli.runs import table
from saaae.runs.listing import removable, remove


@dataclass(frozen=True)
class Clean:
    """Shows what may be deleted without losing a result, and deletes it with --yes.

    That is last.ckpt, previous.ckpt and damaged.ckpt of finished runs, which can then be evaluated but not extended,
    partial files of killed processes, and the folders of runs that failed before a checkpoint. Never best.ckpt or
    metrics, and nothing of a run that a process is at work on.
    """

    outputs: Annotated[str, "folder that the runs are in, or one run"] = "outputs"
    yes: Annotated[bool, "delete"] = False


def run(settings: Clean) -> None:
    """Prints what may go, and deletes it if told."""
    items = removable(Path(settings.outputs))
    if not items:
        print("nothing to delete")
        return
    print(table(["MB", "what", "why"], [[f"{each.size / 2**20:.1f}", str(each.path), each.why] for each in items]))
    if settings.yes:
        print(f"deleted, {remove(items) / 2**20:.1f} MB freed")
    else:
        print(f"{sum(each.size for each in items) / 2**20:.1f} MB; nothing was deleted, --yes deletes them")


COMMAND = ConsoleCommand(Clean, run, positional=("outputs",), example="saaae clean outputs --yes")
