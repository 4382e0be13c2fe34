"""The leaderboard of a sweep: means and spread over seeds, paired differences, and whether they may be compared."""

import csv
import io
import math
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from statistics import fmean, stdev
from typing import Any
from urllib.parse import quote

from saaae.errors import UserError
from saaae.metrics.intervals import mean_interval
from saaae.runs.folder import write_atomically
from saaae.runs.leaderboard_figures import save_curves, save_reconstructions
from saaae.runs.leaderboard_page import Cell, Section, rendered
from saaae.runs.report import measure_of
from saaae.runs.sweep import Run, Variant, common_settings, repeated_seeds, runs_of, variants_of

METRICS = ("ssim", "psnr", "ssim_clean", "psnr_clean", "nll", "kl_effective", "elbo", "bits_per_dim", "active_units",
           "uncharged_nats", "tile_auroc", "tile_ap", "images_per_second")  # fmt: skip
ENVIRONMENT = ("threads", "precision", "device", "commit", "python", "torch", "torchvision", "lightning")
"""What of a run's record moves numbers, or how fast they come, beside its settings."""
NONE = "n/a"


def write_leaderboard(sweep: Path, baseline: int | None = None) -> list[Path]:
    """Compares the runs of a folder in leaderboard.csv, .md, .html and pictures beside them.

    Args:
        sweep: The folder that the run folders lie in.
        baseline: Number of the variant that the others are compared with, from 1 in the order of the sweep; None is 1.

    Returns:
        What was written.

    Raises:
        UserError: If the folder holds no finished run, or the baseline is none of the variants.
    """
    runs = runs_of(sweep)
    variants = variants_of(runs)
    if not variants:
        raise UserError(f"{sweep}: no run in it has finished ({_counts(runs)})")
    number = 1 if baseline is None else baseline
    if not 1 <= number <= len(variants):
        names = ", ".join(f"{variant.number} {variant.label}" for variant in variants)
        raise UserError(f"baseline={baseline}: expected the number of a variant: {names}")
    path = sweep / "leaderboard.csv"
    write_atomically(path, _csv(runs))
    curves = save_curves(variants, path.with_suffix(".png"))
    images = save_reconstructions(variants, path.with_name("leaderboard_reconstructions.png"))
    title = f"Leaderboard of {sweep.resolve().name}"
    sections = list(_sections(runs, variants, variants[number - 1], curves, images))
    pages = [path.with_suffix(".md"), path.with_suffix(".html")]
    for page in pages:
        write_atomically(page, rendered(page.suffix, title, sections))
    return [path, *pages, *(p for p in (curves, images) if p)]


def ranking_lines(variants: list[Variant]) -> Iterator[str]:
    """The variants, best first, with mean and standard deviation of what ranks them, SSIM and PSNR."""
    finished = [run for variant in variants for run in variant.runs]
    metric, columns = ranking(finished)[0], _columns(finished)
    for rank, variant in enumerate(ranked(variants, metric), 1):
        shown = (name for name in dict.fromkeys((metric, "ssim", "psnr")) if variant.values(name))
        numbers = (f"{name} {_spread(variant.values(name), columns[name], len(variant.runs))}" for name in shown)
        yield "  ".join([f"{rank:>3}  {variant.label}", *numbers])


def _csv(runs: list[Run]) -> str:
    """A row a run, unrounded; empty where a number is missing."""
    metrics = [*dict.fromkeys(name for run in runs for name in run.test), "images_per_second"]
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["folder", "status", "variant", "seed", *metrics])
    for run in runs:
        writer.writerow([run.folder.name, _state(run), run.variant, run.seed, *map(run.value, metrics)])
    return text.getvalue()


def _state(run: Run) -> str:
    return run.status.get("state", "unknown")


def _counts(runs: list[Run]) -> str:
    states = [_state(run) for run in runs]
    return ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))


def _sections(
    runs: list[Run], variants: list[Variant], baseline: Variant, curves: Path | None, images: Path | None
) -> Iterator[Section]:
    """The page from top to bottom."""
    finished = [run for variant in variants for run in variant.runs]
    columns = _columns(finished)
    metric, reason = ranking(finished)
    order = ranked(variants, metric)
    yield Section("", [f"{len(runs)} runs ({_counts(runs)}), {datetime.now():%Y-%m-%d %H:%M}."])
    if found := warnings_of(variants):
        yield Section("Warnings", found)
    yield _table_of_variants(order, columns, reason)
    if curves:
        yield Section("Rate, distortion and learning curves", picture=curves)
    if len(variants) > 1:
        yield _table_of_differences(variants, baseline, columns)
    if images:
        caption = "Fixed test images, z = mean; the first seed of each variant."
        yield Section("Reconstructions", [caption], picture=images)
    if unfinished := [run for run in runs if not run.test]:
        yield _table_of_unfinished(unfinished)
    yield _table_of_runs(order, columns)
    yield Section("Common to all runs", _common(runs, finished))


def _columns(runs: list[Run]) -> dict[str, int]:
    """The metrics that there are, with their digits after the point: four that count, and at least one after it.

    Nats that no loss charged have a column only where there are any.
    """
    columns = {}
    for metric in METRICS:
        values = [value for run in runs if (value := run.value(metric)) is not None]
        largest = max(map(abs, values), default=0.0)
        if values and (metric != "uncharged_nats" or max(values) > 0):
            columns[metric] = min(4, max(1, 3 - math.floor(math.log10(largest)))) if largest else 4
    return columns


def ranking(runs: list[Run]) -> tuple[str, str]:
    """The metric that ranks finished runs, and a line that says why it is this one."""
    faults = {
        "not every run has one": any(run.value("elbo") is None for run in runs),
        "the likelihoods differ": len({run.likelihood for run in runs}) > 1,
        "the test data differ": bool(_seeds_of_other_data(runs)),
    }
    if why := " and ".join(fault for fault, found in faults.items() if found):
        return "ssim", f"Ranked by mean test ssim. The elbo compares only under one likelihood on the same data: {why}."
    return "elbo", "Ranked by mean test elbo, in nats per image: one likelihood, the same data."


def ranked(variants: list[Variant], metric: str) -> list[Variant]:
    """Variants from the highest mean down, those without the metric last."""
    return sorted(variants, key=lambda variant: -fmean(variant.values(metric) or [-math.inf]))


def _seeds_of_other_data(runs: list[Run]) -> list[int | None]:
    """Seeds under which not all runs were tested on the same images: splits may depend on the seed."""
    tasks: dict[int | None, set[str]] = {}
    for run in runs:
        tasks.setdefault(run.seed, set()).add(run.task)
    return [seed for seed, found in tasks.items() if len(found) > 1]


def warnings_of(variants: list[Variant]) -> list[str]:
    """What makes numbers of finished runs hard to compare, a line each."""
    runs = [run for variant in variants for run in variant.runs]
    found = []
    if seeds := _seeds_of_other_data(runs):
        found.append(f"Test data differ between runs of seed {_listed(seeds)}: their numbers do not compare.")
    for name, values in _environment(runs).items():
        if len(values) > 1:
            found.append(f"{name} differs between runs: {_listed(values)}.")
    if dirty := [run for run in runs if run.record.get("dirty")]:
        found.append(f"{len(dirty)} of {len(runs)} runs were made with uncommitted changes.")
    every = {run.seed for run in runs}
    for variant in variants:
        if missing := every - {run.seed for run in variant.runs}:
            found.append(f"{variant.label} lacks seed {_listed(missing)}: means over other seeds do not compare.")
        if seeds := repeated_seeds(variant):
            found.append(f"{variant.label} has several runs of seed {_listed(seeds)}, taken as independent.")
    if all(len(variant.runs) == 1 for variant in variants):
        found.append("One run a variant: what another seed would change is not known.")
    return found


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(sorted(map(str, values)))


def _environment(runs: list[Run]) -> dict[str, list[str]]:
    """The different values that the runs record of what they ran on and by; commits shortened."""
    found: dict[str, set[str]] = {name: set() for name in ENVIRONMENT}
    for run in runs:
        record = {**run.record, **run.record.get("versions", {})}
        for name, values in found.items():
            if record.get(name) is not None:
                values.add(str(record[name])[: 12 if name == "commit" else None])
    return {name: sorted(values) for name, values in found.items()}


def _table_of_variants(order: list[Variant], columns: dict[str, int], reason: str) -> Section:
    """Mean and sample standard deviation of each metric."""
    rows = []
    for rank, variant in enumerate(order, 1):
        numbers = [_spread(variant.values(metric), digits, len(variant.runs)) for metric, digits in columns.items()]
        rows.append([str(rank), str(variant.number), variant.label, str(len(variant.runs)), *numbers])
    lines = [reason, "Mean ± sample standard deviation over runs; test metrics of best.ckpt."]
    return Section("Variants", lines, ["rank", "number", "variant", "runs", *_heads(columns)], rows)


def _heads(metrics: Iterable[str]) -> list[str]:
    measures = ((metric, measure_of(metric)) for metric in metrics)
    return [f"{metric}, {measure.unit}" if measure and measure.unit else metric for metric, measure in measures]


def _spread(values: list[float], digits: int, runs: int) -> str:
    if not values:
        return NONE
    spread = f" ±\u00a0{stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{fmean(values):.{digits}f}{spread}{_fewer(len(values), runs)}"


def _fewer(count: int, of: int) -> str:
    return f" (n\u00a0=\u00a0{count})" if count < of else ""


def _table_of_differences(variants: list[Variant], baseline: Variant, columns: dict[str, int]) -> Section:
    """Mean difference to the baseline and its interval, over pairs of runs."""
    rows: list[list[str | Cell]] = []
    for variant in (variant for variant in variants if variant is not baseline):
        differences = [variant.differences(baseline, metric) for metric in columns]
        pairs = max(map(len, differences), default=0)
        told = "no pair" if pairs == 0 else "one pair: no interval" if pairs == 1 else str(pairs)
        cells = map(_interval, differences, columns.values(), [pairs] * len(columns))
        rows.append([variant.label, told, *cells])
    lines = [
        f"Each variant minus {baseline.label} (number {baseline.number}; baseline= chooses another), paired by seed on "
        "the same data: mean difference ± half width of the 95 % Student-t interval.",
        "Bold: the interval excludes 0. Each interval stands for itself: of twenty, about one excludes 0 by chance.",
    ]
    return Section("Differences from the baseline", lines, ["variant", "pairs", *_heads(columns)], rows)


def _interval(differences: list[float], digits: int, pairs: int) -> Cell:
    if not differences:
        return Cell(NONE)
    mean, half_width = mean_interval(differences)
    width = "" if math.isnan(half_width) else f" ±\u00a0{half_width:.{digits}f}"
    return Cell(f"{mean:+.{digits}f}{width}{_fewer(len(differences), pairs)}", strong=abs(mean) > half_width > 0)


def _table_of_unfinished(runs: list[Run]) -> Section:
    header = ["run", "state", "since", "why"]
    rows = [[_link(run), _state(run), run.status.get("since", ""), run.status.get("why", "")] for run in runs]
    return Section("Unfinished and failed", ["A killed run still says running."], header, rows)


def _table_of_runs(order: list[Variant], columns: dict[str, int]) -> Section:
    rows: list[list[str | Cell]] = []
    for number, run in [(variant.number, run) for variant in order for run in variant.runs]:
        found = [(run.value(metric), digits) for metric, digits in columns.items()]
        numbers = [NONE if value is None else f"{value:.{digits}f}" for value, digits in found]
        links = [_link(run, "picture", "reconstructions.png"), _link(run, "log", "train.log")]
        rows.append([_link(run), str(number), str(run.seed), *numbers, *links])
    return Section("Runs", [], ["run", "variant", "seed", *_heads(columns), "picture", "log"], rows)


def _link(run: Run, text: str = "", file: str = "") -> Cell:
    """A cell that leads to a run folder or to a file in it, if it is there."""
    there = (run.folder / file).exists()
    return Cell(text or run.folder.name, f"./{quote(run.folder.name)}/{file}") if there else Cell("")


def _common(runs: list[Run], finished: list[Run]) -> list[str]:
    """What was typed for all runs, and what of their environment is the same."""
    same = [f"{name} {values[0]}" for name, values in _environment(finished).items() if len(values) == 1]
    return [line for line in (" ".join(common_settings(runs)), ", ".join(same)) if line]
