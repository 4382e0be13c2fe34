"""`saaae diff`: how two runs differ."""

from dataclasses import dataclass
from typing import Annotated, Any

from saaae.cli.console import ConsoleCommand
from saaae.cli.runs import table
from saaae.runs.listing import differing_metrics, differing_settings, run_folder


@dataclass(frozen=True)
class Diff:
    """Shows how two runs differ: settings, code and devices first, then test metrics with their difference."""

    first: Annotated[str, "run folder"]
    second: Annotated[str, "run folder"]


def run(settings: Diff) -> None:
    """Prints what differs."""
    first, second = run_folder(settings.first), run_folder(settings.second)
    rows = [[key, *map(_text, pair)] for key, pair in differing_settings(first, second).items()]
    print(table(["setting", settings.first, settings.second], rows) if rows else "equal settings")
    numbers = []
    for name, (old, new) in differing_metrics(first, second).items():
        change = "" if old is None or new is None else f"{new - old:+.5g}"
        numbers.append([name, *("n/a" if value is None else f"{value:.6g}" for value in (old, new)), change])
    print()
    unfinished = [each.path for each in (first, second) if not each.metrics.is_file()]
    for path in unfinished:
        print(f"{path}: no test metrics, the run has not finished")
    if not unfinished:
        head = ["test metric", settings.first, settings.second, "difference"]
        print(table(head, numbers) if numbers else "equal test metrics")


def _text(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


COMMAND = ConsoleCommand(Diff, run, positional=("first", "second"), example="saaae diff outputs/first outputs/second")
