"""The tables of a leaderboard: variants, paired differences, runs; and its CSV file."""

import csv
import io
import math
from collections.abc import Iterable
from statistics import fmean, stdev
from urllib.parse import quote

from saaae.metrics.catalog import measure_of, names
from saaae.metrics.intervals import mean_interval
from saaae.sweeps.page import Cell, Section
from saaae.sweeps.summary import RunSummary, Variant

METRICS = [*names("compared"), "images_per_second"]

NONE = "n/a"


def csv_of(runs: list[RunSummary]) -> str:
    """A row a run, unrounded; empty where a number is missing."""
    metrics = [*dict.fromkeys(name for run in runs for name in run.test), "images_per_second"]
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["folder", "status", "variant", "seed", *metrics])
    for run in runs:
        status = f"copy of {run.copy_of}" if run.copy_of else state_of(run)
        writer.writerow([run.folder.name, status, run.variant, run.seed, *map(run.value, metrics)])
    return text.getvalue()


def state_of(run: RunSummary) -> str:
    """State in status.json."""
    return run.status.get("state", "unknown")


def columns_of(runs: list[RunSummary]) -> dict[str, int]:
    """The metrics that there are, with their digits after the point: four that count, and at least one after it.

    Nats that are not in the loss have a column only where there are any.
    """
    columns = {}
    for metric in METRICS:
        values = [value for run in runs if (value := run.value(metric)) is not None]
        largest = max(map(abs, values), default=0.0)
        if values and (metric != "uncharged_nats" or max(values) > 0):
            columns[metric] = min(4, max(1, 3 - math.floor(math.log10(largest)))) if largest else 4
    return columns


def table_of_variants(title: str, order: list[Variant], columns: dict[str, int], reason: str) -> Section:
    """Mean and sample standard deviation of each metric."""
    rows = []
    for rank, variant in enumerate(order, 1):
        numbers = [spread_of(variant.values(metric), digits, len(variant.runs)) for metric, digits in columns.items()]
        rows.append([str(rank), str(variant.number), variant.label, str(len(variant.runs)), *numbers])
    lines = [reason, "Mean ± sample standard deviation over runs; test metrics of best.ckpt."]
    return Section(title, lines, ["rank", "number", "variant", "runs", *_heads(columns)], rows)


def _heads(metrics: Iterable[str]) -> list[str]:
    measures = ((metric, measure_of(metric)) for metric in metrics)
    return [f"{metric}, {measure.unit}" if measure and measure.unit else metric for metric, measure in measures]


def spread_of(values: list[float], digits: int, runs: int) -> str:
    """Mean and sample standard deviation, and their number if it is not that of the runs."""
    if not values:
        return NONE
    spread = f" ±\u00a0{stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{fmean(values):.{digits}f}{spread}{_fewer(len(values), runs)}"


def _fewer(count: int, of: int) -> str:
    return f" (n\u00a0=\u00a0{count})" if count < of else ""


def table_of_differences(title: str, variants: list[Variant], baseline: Variant, columns: dict[str, int]) -> Section:
    """Mean difference to the baseline and its interval, over pairs of runs."""
    rows: list[list[str | Cell]] = []
    for variant in (variant for variant in variants if variant is not baseline):
        differences = [variant.differences(baseline, metric) for metric in columns]
        pairs = max(map(len, differences), default=0)
        count = "no pair" if pairs == 0 else "one pair: no interval" if pairs == 1 else str(pairs)
        cells = map(_interval, differences, columns.values(), [pairs] * len(columns))
        rows.append([variant.label, count, *cells])
    lines = [
        f"Each variant minus {baseline.label} (number {baseline.number}; baseline= chooses another), paired by seed on "
        "the same data: mean difference ± half width of the 95 % Student-t interval.",
        "Bold: the interval excludes 0. Each interval stands for itself: of twenty, about one excludes 0 by chance.",
    ]
    return Section(title, lines, ["variant", "pairs", *_heads(columns)], rows)


def _interval(differences: list[float], digits: int, pairs: int) -> Cell:
    if not differences:
        return Cell(NONE)
    mean, half_width = mean_interval(differences)
    width = "" if math.isnan(half_width) else f" ±\u00a0{half_width:.{digits}f}"
    return Cell(f"{mean:+.{digits}f}{width}{_fewer(len(differences), pairs)}", strong=abs(mean) > half_width)


def table_of_unfinished(runs: list[RunSummary]) -> Section:
    """State of each run and the reason of a failure."""
    header = ["run", "state", "since", "why"]
    rows = [[_link(run), state_of(run), run.status.get("since", ""), run.status.get("why", "")] for run in runs]
    return Section("Unfinished and failed", ["A killed run still says running."], header, rows)


def table_of_runs(order: list[Variant], columns: dict[str, int]) -> Section:
    """A row a run, with links into its folder."""
    rows: list[list[str | Cell]] = []
    for number, run in [(variant.number, run) for variant in order for run in variant.runs]:
        found = [(run.value(metric), digits) for metric, digits in columns.items()]
        numbers = [NONE if value is None else f"{value:.{digits}f}" for value, digits in found]
        links = [_link(run, "picture", "reconstructions.png"), _link(run, "log", "train.log")]
        rows.append([_link(run), str(number), str(run.seed), *numbers, *links])
    return Section("Runs", [], ["run", "variant", "seed", *_heads(columns), "picture", "log"], rows)


def _link(run: RunSummary, text: str = "", file: str = "") -> Cell:
    """A cell that leads to a run folder or to a file in it, if it is there."""
    there = (run.folder / file).exists()
    return Cell(text or run.folder.name, f"{quote(run.link or f'./{run.folder.name}')}/{file}") if there else Cell("")
