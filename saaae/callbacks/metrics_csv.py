"""Every logged number in one CSV file that a resumed run continues."""

import csv
import io
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from saaae.atomic import replacing
from saaae.errors import reading

HEADER = ["step", "epoch", "metric", "value"]


def rows_before(path: Path, step: int) -> list[list[str]]:
    """Complete rows of optimizer steps before `step`; none where there is no file.

    Raises:
        UserError: If the file is damaged.
    """
    if not path.is_file() or not step:
        return []
    with reading(path), path.open(newline="") as file:
        complete = [row for row in csv.reader(file) if len(row) == 4 and row[0].isdigit()]
        return [row for row in complete if int(row[0]) < step]


class MetricsCSV(Logger):
    """Appends one row per number to metrics.csv: step, epoch, metric, value.

    Lightning's CSVLogger deletes an older file; this one truncates it to the step that the run continues from.

    Args:
        path: The file.
        resume_step: Optimizer step of the checkpoint that the run continues from, 0 for a new run.

    Raises:
        UserError: If the file is damaged.
    """

    def __init__(self, path: Path, resume_step: int) -> None:
        super().__init__()
        self.path = path
        rows = rows_before(path, resume_step)
        text = io.StringIO(newline="")
        csv.writer(text).writerows([HEADER, *rows])
        with replacing(self.path) as file:
            file.write(text.getvalue().encode())

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Writes nothing: config.yaml holds the hyperparameters."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        epoch = int(metrics.get("epoch", 0))
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerows([step, epoch, name, value] for name, value in metrics.items() if name != "epoch")
