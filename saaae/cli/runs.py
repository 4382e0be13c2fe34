"""`saaae runs`: a table of the runs below a folder."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from saaae.cli.console import ConsoleCommand
from saaae.runs.listing import Condition, ListedRun, known, list_runs


@dataclass(frozen=True)
class Runs:
    """Lists runs, those of sweeps too: state, model, data, epochs, main test metric and size.

    The metric is the ELBO, or SSIM of a model without a KL. `killed`: no process is at work, and the run can be
    continued by its command or by resume=.
    """

    outputs: Annotated[str, "folder that the runs are in"] = "outputs"
    state: Annotated[Condition | None, "only runs in this state"] = None
    model: Annotated[str | None, "only runs of this model"] = None
    data: Annotated[str | None, "only runs on this data set"] = None
    sort: Annotated[
        Literal["folder", "state", "model", "data", "epochs", "metric", "size", "since"], "what they are sorted by"
    ] = "folder"


def run(settings: Runs) -> None:
    """Prints the table."""
    runs = list_runs(settings.outputs)
    known("model", settings.model, {each.model for each in runs})
    known("data", settings.data, {each.data for each in runs})
    for name in ("state", "model", "data"):
        wanted = getattr(settings, name)
        runs = [each for each in runs if wanted in (None, getattr(each, name))]
    runs.sort(key=lambda each: _key(each, settings.sort))
    rows = [_row(each) for each in runs]
    print(table(["run", "state", "model", "data", "epochs", "test metric", "MB", "since"], rows))
    total = sum(each.size for each in runs) / 2**20
    print(f"{len(runs)} run{'s' * (len(runs) != 1)}, {total:.1f} MB")


def _key(each: ListedRun, by: str) -> Any:
    """Sorts names upwards, and numbers and times downwards."""
    if by == "metric":
        return each.metric, -(each.value if each.value is not None else float("-inf"))
    if by in ("epochs", "size"):
        return -(getattr(each, by) or 0)
    return str(getattr(each, by))


def _row(each: ListedRun) -> list[str]:
    value = "" if each.value is None else f"{each.metric} {each.value:.5g}"
    epochs = "" if each.epochs is None else str(each.epochs)
    return [str(each.folder), each.state, each.model, each.data, epochs, value, f"{each.size / 2**20:.1f}", each.since]


def table(head: list[str], rows: list[list[str]]) -> str:
    """Aligned columns."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [head, *rows])
    return "\n".join(line.rstrip() for line in lines)


COMMAND = ConsoleCommand(Runs, run, positional=("outputs",), example="saaae runs outputs model=vae sort=metric")
