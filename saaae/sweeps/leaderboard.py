"""The leaderboard of a sweep: means and spread over seeds, paired differences, and whether they may be compared."""

import math
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from statistics import fmean
from textwrap import shorten
from typing import Any, NamedTuple

from saaae.atomic import write_text
from saaae.errors import UserError
from saaae.sweeps.figures import save_curves, save_reconstructions
from saaae.sweeps.page import Section, rendered
from saaae.sweeps.runs import common_settings, repeated_seeds, runs_of, variants_of
from saaae.sweeps.summary import RunSummary, Variant
from saaae.sweeps.tables import (
    columns_of,
    csv_of,
    spread_of,
    state_of,
    table_of_differences,
    table_of_runs,
    table_of_unfinished,
    table_of_variants,
)

ENVIRONMENT = ("threads", "precision", "device", "commit", "python", "torch", "torchvision", "lightning")
"""Parts of a run's record that influence numbers, or the speed, beside its settings."""

LABEL_WIDTH = 60
"""Characters of a variant's label in the terminal and in warnings; pages have the whole label."""


class Ranking(NamedTuple):
    """Variants that were tested on the same data, and their pictures.

    Attributes:
        heading: Their test data; empty if all variants were tested on the same.
        variants: In the order of their numbers.
        baseline: The variant that the others are compared with.
        curves, images: PNG files; None where there is nothing to draw.
    """

    heading: str
    variants: list[Variant]
    baseline: Variant
    curves: Path | None = None
    images: Path | None = None

    @property
    def columns(self) -> dict[str, int]:
        """The metrics of the runs and their digits."""
        return columns_of(_runs(self.variants))


def write_leaderboard(
    sweep: Path, baseline: int | None = None, runs: list[RunSummary] | None = None, title: str = ""
) -> list[Path]:
    """Compares the runs of a folder in leaderboard.csv, .md, .html and pictures beside them.

    Args:
        sweep: The folder that the run folders lie in, and the pages are written to.
        baseline: Number of the variant that the others are compared with, from 1 in the order of the sweep; None is 1.
        runs: The runs to compare; None reads those in the folder.
        title: Of the pages; empty names the folder.

    Returns:
        What was written.

    Raises:
        UserError: If the folder holds no finished run, or the baseline is none of the variants.
    """
    runs = runs_of(sweep) if runs is None else runs
    variants = variants_of(runs)
    if not variants:
        raise UserError(f"{sweep}: no run in it has finished ({_counts(runs)})")
    number = 1 if baseline is None else baseline
    if not 1 <= number <= len(variants):
        names = ", ".join(f"{variant.number} {variant.label}" for variant in variants)
        raise UserError(f"baseline={baseline}: expected the number of a variant: {names}")
    path = sweep / "leaderboard.csv"
    write_text(path, csv_of(runs))
    rankings = []
    for place, each in enumerate(_rankings(variants, variants[number - 1]), 1):
        stem = "leaderboard" if place == 1 else f"leaderboard-{place}"
        curves = save_curves(each.variants, sweep / f"{stem}.png")
        images = save_reconstructions(each.variants, sweep / f"{stem}_reconstructions.png")
        rankings.append(each._replace(curves=curves, images=images))
    title = title or f"Leaderboard of {sweep.resolve().name}"
    sections = list(_sections(runs, variants, rankings))
    pages = [path.with_suffix(".md"), path.with_suffix(".html")]
    for page in pages:
        write_text(page, rendered(page.suffix, title, sections))
    pictures = [picture for each in rankings for picture in (each.curves, each.images) if picture]
    return [path, *pages, *pictures]


def _rankings(variants: list[Variant], baseline: Variant) -> list[Ranking]:
    """The variants by test data; the first of each is the baseline unless it has the chosen one."""
    groups: dict[str, list[Variant]] = {}
    for variant in variants:
        groups.setdefault(variant.tested_on, []).append(variant)
    return [
        Ranking(heading if len(groups) > 1 else "", group, baseline if baseline in group else group[0])
        for heading, group in groups.items()
    ]


def _runs(variants: list[Variant]) -> list[RunSummary]:
    return [run for variant in variants for run in variant.runs]


def ranking_lines(variants: list[Variant]) -> Iterator[str]:
    """A ranking for each test data: its metric, then the variants, best first, with their run folder.

    A line has mean and standard deviation of the metric, SSIM and PSNR, and of several runs the best one's folder.
    """
    for heading, group, *_ in _rankings(variants, variants[0]):
        (metric, reason), columns = ranking(_runs(group)), columns_of(_runs(group))
        yield from ["", heading] * bool(heading)
        yield from [reason] * (len(group) > 1)
        for rank, variant in enumerate(ranked(group, metric), 1):
            shown = (name for name in dict.fromkeys((metric, "ssim", "psnr")) if variant.values(name))
            numbers = (f"{name} {spread_of(variant.values(name), columns[name], len(variant.runs))}" for name in shown)
            where = f"{len(variant.runs)} runs, best in" if len(variant.runs) > 1 else "in"
            yield "  ".join(
                [f"{rank:>3}  {_short(variant.label)}", *numbers, f"{where} {variant.best(metric).folder.name}"]
            )


def _short(label: str) -> str:
    return shorten(label, LABEL_WIDTH, placeholder=" ...")


def _counts(runs: list[RunSummary]) -> str:
    states = [state_of(run) for run in runs]
    return ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))


def _sections(runs: list[RunSummary], variants: list[Variant], rankings: list[Ranking]) -> Iterator[Section]:
    """The page from top to bottom."""
    yield Section("", [f"{len(runs)} runs ({_counts(runs)}), {datetime.now():%Y-%m-%d %H:%M}."])
    if found := warnings_of(variants):
        yield Section("Warnings", found)
    order = []
    for each in rankings:
        metric, reason = ranking(_runs(each.variants))
        order += (best_first := ranked(each.variants, metric))
        of = f": {each.heading}" if each.heading else ""
        yield table_of_variants(f"Variants{of}", best_first, each.columns, reason)
        if each.curves:
            yield Section(f"Rate, distortion and learning curves{of}", picture=each.curves)
        if len(each.variants) > 1:
            title = f"Differences from the baseline{of}"
            yield table_of_differences(title, each.variants, each.baseline, each.columns)
        if each.images:
            caption = "Fixed test images, z = mean; the first seed of each variant."
            yield Section(f"Reconstructions{of}", [caption], picture=each.images)
    if unfinished := [run for run in runs if not run.test]:
        yield table_of_unfinished(unfinished)
    yield table_of_runs(order, columns_of(_runs(variants)))
    yield Section("Common to all runs", _common(runs, _runs(variants)))


def ranking(runs: list[RunSummary]) -> tuple[str, str]:
    """The metric that ranks finished runs with the same test data, and a line with the reason."""
    obstacles = {
        "not every run has one": any(run.value("elbo") is None for run in runs),
        "the likelihoods differ": len({run.likelihood for run in runs}) > 1,
    }
    if why := " and ".join(obstacle for obstacle, found in obstacles.items() if found):
        return "ssim", f"Ranked by mean test ssim. The elbo compares only under one likelihood on the same data: {why}."
    return "elbo", "Ranked by mean test elbo, in nats per image: one likelihood, the same data."


def ranked(variants: list[Variant], metric: str) -> list[Variant]:
    """Variants from the highest mean down, those without the metric last."""
    return sorted(variants, key=lambda variant: -fmean(variant.values(metric) or [-math.inf]))


def warnings_of(variants: list[Variant]) -> list[str]:
    """What makes numbers of finished runs hard to compare, a line each."""
    runs, groups = _runs(variants), _rankings(variants, variants[0])
    found = []
    if len(groups) > 1:
        found.append(f"Test data or targets differ: {len(groups)} rankings, whose numbers do not compare.")
    for name, values in _environment(runs).items():
        if len(values) > 1:
            found.append(f"{name} differs between runs: {_listed(values)}.")
    if dirty := [run for run in runs if run.record.get("dirty")]:
        found.append(f"{len(dirty)} of {len(runs)} runs were made with uncommitted changes.")
    missing: dict[int, str] = {}
    for group in (group.variants for group in groups):
        every = {run.seed for run in _runs(group)}
        missing |= {v.number: _listed(every - v.seeds) for v in group if every - v.seeds}
    repeated = {variant.number: _listed(seeds) for variant in variants if (seeds := repeated_seeds(variant))}
    found += _of_variants(variants, missing, "lacks seed", "means over other seeds do not compare.")
    found += _of_variants(variants, repeated, "has several runs of seed", "they are taken as independent.")
    if copies := [f"{run.folder.name} (as {run.copy_of})" for variant in variants for run in variant.copies]:
        found.append(f"Equal settings, seed and numbers, counted once: {_first_of(copies)}.")
    if all(len(variant.runs) == 1 for variant in variants):
        found.append("One run a variant: what another seed would change is not known.")
    return found


def _of_variants(variants: list[Variant], what: dict[int, str], verb: str, consequence: str) -> list[str]:
    """One line about the variants whose numbers have an entry in `what`; none if there are none."""
    words = [f"{_short(variant.label)} {verb} {what[variant.number]}" for variant in variants if variant.number in what]
    return [f"{_first_of(words)}: {consequence}"] if words else []


def _first_of(words: list[str], most: int = 3) -> str:
    rest = len(words) - most
    return ", ".join(words[:most]) + (f" and {rest} more" if rest > 0 else "")


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(sorted(map(str, values)))


def _environment(runs: list[RunSummary]) -> dict[str, list[str]]:
    """The different values that the runs record of what they ran on and by; commits shortened."""
    found: dict[str, set[str]] = {name: set() for name in ENVIRONMENT}
    for run in runs:
        record = {**run.record, **run.record.get("versions", {})}
        for name, values in found.items():
            if record.get(name) is not None:
                values.add(str(record[name])[: 12 if name == "commit" else None])
    return {name: sorted(values) for name, values in found.items()}


def _common(runs: list[RunSummary], finished: list[RunSummary]) -> list[str]:
    """What was typed for all runs, and what of their environment is the same."""
    same = [f"{name} {values[0]}" for name, values in _environment(finished).items() if len(values) == 1]
    return [line for line in (" ".join(common_settings(runs)), ", ".join(same)) if line]
