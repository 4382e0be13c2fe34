"""What is known of a run and of a variant of a sweep."""

import math
import statistics
from pathlib import Path
from typing import Any, NamedTuple


class RunSummary(NamedTuple):
    """What is known of a run.

    Attributes:
        folder: The run folder.
        typed: Its overrides by key, without the seed and what leaves numbers alone; None where it never began.
        seed: Its seed; None where it never began.
        task: What it was tested on: equal texts mean equal test images and targets.
        data: Settings of its data but the seed, and the number of tested images.
        likelihood: Its likelihood's node.
        test, train, record: The parts of metrics.json; empty where it has not finished.
        status: What status.json says.
        variant: The overrides in which it differs from the others, without the seed; empty where it never began.
        copy_of: Name of an earlier run folder with the same settings, seed and numbers; empty where there is none.
        link: Where the folder is, seen from the page; empty if it lies beside it.
    """

    folder: Path
    typed: dict[str, str] | None
    seed: int | None
    task: str
    data: dict[str, Any]
    likelihood: str
    test: dict[str, float | None]
    train: dict[str, float | None]
    record: dict[str, Any]
    status: dict[str, Any]
    variant: str = ""
    copy_of: str = ""
    link: str = ""

    def value(self, metric: str) -> float | None:
        """A test metric, or a number of training by its name; None where it is missing or not finite.

        A posterior that does not log kl_effective has it in the loss.
        """
        value = self.test.get(metric, self.train.get(metric))
        value = value if isinstance(value, int | float) else None
        if metric == "kl_effective" and value is None and self.test.get("elbo") is not None:
            value = self.test.get("kl")
        return value if value is not None and math.isfinite(value) else None


class Variant(NamedTuple):
    """Finished runs that differ in their seed alone.

    Attributes:
        number: From 1, in the order of the sweep.
        label: The overrides in which the variant differs from the others.
        runs: In the order of their seeds, without copies.
        tested_on: The test data: numbers of variants compare where this text is the same.
        copies: Runs that are copies of one of `runs`.
    """

    number: int
    label: str
    runs: list[RunSummary]
    tested_on: str = ""
    copies: tuple[RunSummary, ...] = ()

    @property
    def seeds(self) -> set[int | None]:
        return {run.seed for run in self.runs}

    def best(self, metric: str) -> RunSummary:
        """The run with the highest value of a metric."""

        def score(run: RunSummary) -> float:
            value = run.value(metric)
            return -math.inf if value is None else value

        return max(self.runs, key=score)

    def values(self, metric: str) -> list[float]:
        """The finite values of a metric."""
        return [value for run in self.runs if (value := run.value(metric)) is not None]

    def differences(self, baseline: "Variant", metric: str) -> list[float]:
        """Of a metric to that of the baseline, for each seed that both have finished on the same data.

        Several runs of one seed count as their mean.
        """
        ours, theirs = self._means(metric), baseline._means(metric)
        return [value - theirs[pair] for pair, value in ours.items() if pair in theirs]

    def _means(self, metric: str) -> dict[tuple[int | None, str], float]:
        """Mean of a metric over the runs of each seed and task."""
        values: dict[tuple[int | None, str], list[float]] = {}
        for run in self.runs:
            if (value := run.value(metric)) is not None:
                values.setdefault((run.seed, run.task), []).append(value)
        return {pair: statistics.fmean(group) for pair, group in values.items()}
