"""The runs of a folder: what each was told, what tells them apart, what became of it. Free of numpy."""

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
from saaae.runs.folder import RunFolder, job_folder, key_of, tells_apart
from saaae.runs.status import read_status

TARGET = ("data.target", "data.looks", "data.correlation", "trainer.limit_test_batches")
"""Settings that decide what is tested and against what, and that the hash of splits leaves out."""


class Run(NamedTuple):
    """What is known of a run.

    Attributes:
        folder: The run folder.
        typed: Its overrides by key, without the seed and what leaves numbers alone; None where it never began.
        seed: Its seed; None where it never began.
        task: What it was tested on: equal texts mean equal test images and targets.
        likelihood: Its likelihood's node.
        test, train, record: The parts of metrics.json; empty where it has not finished.
        status: What status.json says.
        variant: What tells it from the others, the seed apart; empty where it never began.
    """

    folder: Path
    typed: dict[str, str] | None
    seed: int | None
    task: str
    likelihood: str
    test: dict[str, float | None]
    train: dict[str, float | None]
    record: dict[str, Any]
    status: dict[str, Any]
    variant: str = ""

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
        label: What tells the variant from the others.
        runs: In the order of their seeds.
    """

    number: int
    label: str
    runs: list[Run]

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
    """Writes the leaderboard of a sweep and says where it is.

    Raises:
        UserError: If no run has finished, or the baseline is none of the variants.
    """
    from saaae.runs.leaderboard import ranking_lines, write_leaderboard

    written = write_leaderboard(sweep, baseline)
    print("\n".join(ranking_lines(variants_of(runs_of(sweep)))))
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
    return _labelled(runs)


def variants_of(runs: list[Run]) -> list[Variant]:
    """The finished runs by variant, numbered in their order."""
    groups: dict[str, list[Run]] = {}
    for run in (run for run in runs if run.test):
        groups.setdefault(run.variant, []).append(run)
    return [
        Variant(number, label, sorted(group, key=lambda run: run.seed or 0))
        for number, (label, group) in enumerate(groups.items(), 1)
    ]


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
    """Reads a run; of one that never began the plan tells what it was to be."""
    results = _json(folder.metrics)
    damaged = folder.metrics.is_file() and not results
    why = {"state": "damaged", "why": "metrics.json cannot be read"} if damaged else {}
    known = {"state": "done"} if results else why
    cfg = folder.config() if folder.record.is_file() else DictConfig({})
    told = folder.overrides() or planned or []
    record = results.get("run", {})
    return Run(
        folder=folder.path,
        typed=_typed(told) if told or folder.record.is_file() else None,
        seed=record.get("seed", OmegaConf.select(cfg, "seed")),
        task=json.dumps([record.get("split_hash"), *(str(OmegaConf.select(cfg, key)) for key in TARGET)]),
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
