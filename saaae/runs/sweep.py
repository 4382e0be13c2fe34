"""The runs of a folder: their overrides, results and states, and which of them are variants. Free of numpy."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from saaae.errors import UserError
from saaae.runs.comparison import comparable, headings, tested_on
from saaae.runs.folder import RunFolder, job_folder, key_of, tells_apart
from saaae.runs.status import read_status


class Run(NamedTuple):
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

    def value(self, metric: str) -> float | None:
        """A test metric, or a number of training by its name; None where it is missing or not finite.

        A posterior that logs no kl_effective of its own charges just that.
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
    runs: list[Run]
    tested_on: str = ""
    copies: tuple[Run, ...] = ()

    @property
    def seeds(self) -> set[int | None]:
        """The seeds of its runs."""
        return {run.seed for run in self.runs}

    def best(self, metric: str) -> Run:
        """The run with the highest value of a metric."""

        def score(run: Run) -> float:
            value = run.value(metric)
            return -math.inf if value is None else value

        return max(self.runs, key=score)

    def values(self, metric: str) -> list[float]:
        """The finite values of a metric."""
        return [value for run in self.runs if (value := run.value(metric)) is not None]

    def differences(self, baseline: "Variant", metric: str) -> list[float]:
        """Of a metric to that of the baseline, for each seed that both have finished on the same data."""
        ours, theirs = (
            {(run.seed, run.task): value for run in runs if (value := run.value(metric)) is not None}
            for runs in (self.runs, baseline.runs)
        )
        return [value - theirs[pair] for pair, value in ours.items() if pair in theirs]


def compare(sweep: Path, baseline: int | None = None) -> None:
    """Writes the leaderboard of a sweep and prints its warnings, its rankings and where it is.

    Raises:
        UserError: If no run has finished, or the baseline is none of the variants.
    """
    from saaae.runs.leaderboard import ranking_lines, warnings_of, write_leaderboard

    written = write_leaderboard(sweep, baseline)
    variants = variants_of(runs_of(sweep))
    for line in [*(f"warning: {warning}" for warning in warnings_of(variants)), *ranking_lines(variants)]:
        print(line)
    for number, path in enumerate(written):
        print(f"{'' if number else 'leaderboard':<13}{path}")


def is_sweep(path: Path) -> bool:
    """Whether a folder is no run itself but holds runs, side by side."""
    return not RunFolder(path).record.is_file() and any(path.glob("*/.hydra/config.yaml"))


def runs_of(sweep: Path) -> list[Run]:
    """The runs of a folder in the order of the sweep's command, others by the time of their last word.

    Raises:
        UserError: If the folder is missing or holds no run.
    """
    if not sweep.is_dir():
        raise UserError(f"{sweep}: no such folder")
    folders = [folder for folder in map(RunFolder, sorted(sweep.iterdir())) if _is_run(folder)]
    if not folders:
        raise UserError(f"{sweep}: holds no run; expected the folder of a sweep, or one whose subfolders are runs")
    plan = _plan(sweep)
    place = {digest: number for number, digest in enumerate(plan)}
    runs = [_read(folder, plan.get(_digest(folder.path))) for folder in folders]
    runs.sort(key=lambda run: (place.get(_digest(run.folder), len(place)), run.status.get("since", "")))
    return _copies_marked(_labelled(runs))


def variants_of(runs: list[Run]) -> list[Variant]:
    """The finished runs by test data and variant, numbered in their order."""
    finished = [run for run in runs if run.test and not run.copy_of]
    groups = comparable(finished)
    if len(groups) > 1:  # what all runs of one group share need not be in its labels
        groups = [_labelled(group) for group in groups]
    place = {run.folder: (text, run) for text, group in zip(headings(groups), groups, strict=True) for run in group}
    variants: dict[tuple[str, str], list[Run]] = {}
    for text, run in (place[run.folder] for run in finished):
        variants.setdefault((text, run.variant), []).append(run)
    found = []
    for number, ((text, label), group) in enumerate(variants.items(), 1):
        names = {run.folder.name for run in group}
        copies = tuple(run for run in runs if run.copy_of in names)
        found.append(Variant(number, label, sorted(group, key=lambda run: run.seed or 0), text, copies))
    return found


def common_settings(runs: list[Run]) -> list[str]:
    """Overrides that all runs share."""
    known = [set(run.typed.values()) for run in runs if run.typed is not None]
    return sorted(set.intersection(*known)) if known else []


def repeated_seeds(variant: Variant) -> list[int | None]:
    """Seeds that a variant has more than one run of."""
    return [seed for seed, count in Counter(run.seed for run in variant.runs).items() if count > 1]


def _is_run(folder: RunFolder) -> bool:
    """Also a job that failed before it began, which has nothing but its status."""
    return folder.record.is_file() or folder.status.is_file()


def _plan(sweep: Path) -> dict[str, list[str]]:
    """The overrides of the jobs of a grid by the digest in their folder's name, from Hydra's record of the command."""
    try:
        command = yaml.safe_load((sweep / "multirun.yaml").read_text())["hydra"]["overrides"]["task"]
        overrides = OverridesParser.create().parse_overrides(command)
        jobs = BasicSweeper.split_arguments(overrides, max_batch_size=None)[0]
    except (OSError, yaml.YAMLError, KeyError, TypeError, HydraException):
        return {}
    return {job_folder("", job): job for job in jobs}


def _digest(path: Path) -> str:
    return path.name.rpartition("-")[2]


def _read(folder: RunFolder, planned: list[str] | None) -> Run:
    """Reads a run; the overrides of a run that never began are those of the plan."""
    results = _json(folder.metrics)
    damaged = folder.metrics.is_file() and not results
    why = {"state": "damaged", "why": "metrics.json cannot be read"} if damaged else {}
    known = {"state": "done"} if results else why
    cfg = folder.config() if folder.record.is_file() else DictConfig({})
    told = folder.overrides() or planned or []
    record = results.get("run", {})
    tested = tested_on(cfg, record, _json(folder.splits))
    return Run(
        folder=folder.path,
        typed=_typed(told) if told or folder.record.is_file() else None,
        seed=record.get("seed", OmegaConf.select(cfg, "seed")),
        task=tested.task,
        data=tested.settings,
        likelihood=OmegaConf.to_yaml(cfg.get("likelihood") or {}),
        test=results.get("test", {}),
        train=results.get("train", {}),
        record=record,
        status=read_status(folder) | known,
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _typed(overrides: list[str]) -> dict[str, str]:
    """Overrides that tell runs apart, by key; the seed does not, but whoever sweeps over devices compares them."""
    by_key = {key_of(o): o.lstrip("+") for o in overrides}
    return {
        key: text
        for key, text in by_key.items()
        if key != "seed" and (tells_apart(key) or key.partition(".")[0] == "accelerator")
    }


def _labelled(runs: list[Run]) -> list[Run]:
    """Names the variant of each run by the overrides that not all of them share."""
    known = [run.typed for run in runs if run.typed is not None]
    keys = dict.fromkeys(key for typed in known for key in typed)
    differing = [key for key in keys if len({typed.get(key) for typed in known}) > 1]

    def label(typed: dict[str, str]) -> str:
        return " ".join(typed[key] for key in differing if key in typed) or ("defaults" if differing else "all runs")

    return [run if run.typed is None else run._replace(variant=label(run.typed)) for run in runs]


def _copies_marked(runs: list[Run]) -> list[Run]:
    """Marks finished runs that repeat an earlier one: the same settings, seed, code and devices, and equal numbers."""
    originals: dict[str, str] = {}
    marked = []
    for run in runs:
        typed = run.typed or {}
        settings = run.record.get("config_hash") or typed
        devices = {key: text for key, text in typed.items() if key.startswith("accelerator")}
        identity = [settings, devices, run.seed, run.task, run.record.get("commit"), run.train.get("steps"), run.test]
        original = originals.setdefault(json.dumps(identity, sort_keys=True), run.folder.name) if run.test else ""
        marked.append(run._replace(copy_of=original) if original not in ("", run.folder.name) else run)
    return marked
