"""The runs of a folder: their overrides, results and states, and which of them are variants. Free of numpy."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import yaml
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from saaae.atomic import read_json_or_empty
from saaae.config.overrides import key_of
from saaae.config.resolvers import job_folder
from saaae.config.settings import affects_results
from saaae.errors import UserError
from saaae.runs.folder import RunFolder
from saaae.runs.status import read_status
from saaae.sweeps.comparison import comparable, headings, tested_on
from saaae.sweeps.summary import RunSummary, Variant


def is_sweep(path: Path) -> bool:
    """Whether a folder is not a run itself but holds runs."""
    return not RunFolder(path).record.is_file() and any(path.glob("*/.hydra/config.yaml"))


def runs_of(sweep: Path) -> list[RunSummary]:
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


def chosen_runs(folders: Sequence[Path], page: Path) -> list[RunSummary]:
    """Runs that lie anywhere, in the order given, for a page in the folder `page`.

    Raises:
        UserError: If a folder is not a finished run, or is given twice, or there are fewer than two.
    """
    if len(folders) < 2:
        raise UserError(f"run=[{', '.join(map(str, folders))}]: expected at least two run folders to compare")
    seen: set[Path] = set()
    for folder in folders:
        RunFolder(folder).results()
        if folder.resolve() in seen:
            raise UserError(f"run: {folder} is given twice")
        seen.add(folder.resolve())
    runs = [_read(RunFolder(folder), None)._replace(link=os.path.relpath(folder, page)) for folder in folders]
    return _copies_marked(_labelled(runs))


def variants_of(runs: list[RunSummary]) -> list[Variant]:
    """The finished runs by test data and variant, numbered in their order."""
    finished = [run for run in runs if run.test and not run.copy_of]
    groups = comparable(finished)
    if len(groups) > 1:  # what all runs of one group share need not be in its labels
        groups = [_labelled(group) for group in groups]
    place = {run.folder: (text, run) for text, group in zip(headings(groups), groups, strict=True) for run in group}
    variants: dict[tuple[str, str], list[RunSummary]] = {}
    for text, run in (place[run.folder] for run in finished):
        variants.setdefault((text, run.variant), []).append(run)
    found = []
    for number, ((text, label), group) in enumerate(variants.items(), 1):
        names = {run.folder.name for run in group}
        copies = tuple(run for run in runs if run.copy_of in names)
        found.append(Variant(number, label, sorted(group, key=lambda run: run.seed or 0), text, copies))
    return found


def common_settings(runs: list[RunSummary]) -> list[str]:
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


def _read(folder: RunFolder, planned: list[str] | None) -> RunSummary:
    """Reads a run; the overrides of a run that never began are those of the plan."""
    results = read_json_or_empty(folder.metrics)
    damaged = "metrics.json cannot be read" if folder.metrics.is_file() and not results else ""
    cfg, overrides = DictConfig({}), planned or []
    try:
        cfg = folder.config() if folder.record.is_file() else cfg
        overrides = folder.overrides() or overrides
    except UserError as error:
        results, damaged = {}, str(error)
    known = {"state": "damaged", "why": damaged} if damaged else {"state": "done"} if results else {}
    record = results.get("run", {})
    tested = tested_on(cfg, record, read_json_or_empty(folder.splits))
    return RunSummary(
        folder=folder.path,
        typed=_typed(overrides) if overrides or folder.record.is_file() else None,
        seed=record.get("seed", OmegaConf.select(cfg, "seed")),
        task=tested.task,
        data=tested.settings,
        likelihood=OmegaConf.to_yaml(cfg.get("likelihood") or {}),
        test=results.get("test", {}),
        train=results.get("train", {}),
        record=record,
        status=read_status(folder) | known,
    )


def _typed(overrides: list[str]) -> dict[str, str]:
    """Overrides that distinguish variants, by key: not the seed, but devices, which a sweep over them compares."""
    by_key = {key_of(o): o.lstrip("+") for o in overrides}
    return {
        key: text
        for key, text in by_key.items()
        if key != "seed" and (affects_results(key) or key.partition(".")[0] == "accelerator")
    }


def _labelled(runs: list[RunSummary]) -> list[RunSummary]:
    """Names the variant of each run by the overrides that not all of them share."""
    known = [run.typed for run in runs if run.typed is not None]
    keys = dict.fromkeys(key for typed in known for key in typed)
    differing = [key for key in keys if len({typed.get(key) for typed in known}) > 1]

    def label(typed: dict[str, str]) -> str:
        return " ".join(typed[key] for key in differing if key in typed) or ("defaults" if differing else "all runs")

    return [run if run.typed is None else run._replace(variant=label(run.typed)) for run in runs]


def _copies_marked(runs: list[RunSummary]) -> list[RunSummary]:
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
