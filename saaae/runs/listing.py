"""The runs below a folder: what they are, how two of them differ, and which of their files may go. Free of torch."""

import math
import os
import shutil
import time
from pathlib import Path
from typing import Any, Literal, NamedTuple

from omegaconf import OmegaConf

from saaae.atomic import read_json_or_empty
from saaae.config.settings import settings_of
from saaae.errors import UserError, nearest
from saaae.runs.folder import RunFolder
from saaae.runs.status import is_locked, read_status

Condition = Literal["running", "done", "failed", "preempted", "pruned", "killed", "damaged", "unknown"]
"""As in status.json; `killed`: it says `running`, but no process is at work; `unknown`: it says nothing."""

MAIN = ("elbo", "ssim")
"""Test metrics, the first of which that a run has stands for it."""

ENVIRONMENT = ("commit", "device", "precision", "threads")
"""Parts of a run's record that may change its numbers, beside its settings and versions."""

FRESH = 3600.0
"""Seconds for which a partial file may still belong to a process, such as evaluate.py, which locks nothing."""


class ListedRun(NamedTuple):
    """A run in a list.

    Attributes:
        folder: The run folder.
        state: How it stands.
        model: Name of its model.
        data: Name of its data set.
        epochs: Epochs that it has finished; None before it is done.
        metric: `elbo`, or `ssim` of a model without a KL; empty before it is done.
        value: That test metric.
        size: Size of the folder in bytes.
        since: When it came to its state; empty if unknown.
        why: The reason of a failure.
        test: All its test metrics by name; empty before it is done.
    """

    folder: Path
    state: Condition
    model: str
    data: str
    epochs: int | None
    metric: str
    value: float | None
    size: int
    since: str
    why: str
    test: dict[str, float | None]


class Removable(NamedTuple):
    """Something that may be deleted without losing a result.

    Attributes:
        run: The run folder that it belongs to.
        path: A file, or a folder.
        size: In bytes.
        why: Why it may go, and what is lost.
    """

    run: Path
    path: Path
    size: int
    why: str


def run_folders(outputs: Path) -> list[RunFolder]:
    """All run folders below a folder, which may be one itself; links are not followed.

    Raises:
        UserError: If there is no such folder.
    """
    if not outputs.is_dir():
        raise UserError(f"{outputs}: no such folder")
    found = []
    for place, below, _ in os.walk(outputs):
        below.sort()
        folder = RunFolder(place)
        if folder.record.is_file() or folder.status.is_file():
            found.append(folder)
            below.clear()
    return found


def list_runs(outputs: str | Path) -> list[ListedRun]:
    """All runs below a folder, those of sweeps too, by their folders.

    Raises:
        UserError: If there is no such folder.
    """
    return [listed(folder) for folder in run_folders(Path(outputs))]


def listed(folder: RunFolder) -> ListedRun:
    """What a list says of a run; damaged files do not keep it from being listed."""
    results, status = read_json_or_empty(folder.metrics), read_status(folder)
    test, train = results.get("test") or {}, results.get("train") or {}
    metric = next((name for name in MAIN if isinstance(test.get(name), int | float)), "")
    try:
        tags = folder.tags()
        names = [str(tags.get(key) or _name_in(folder, key)) for key in ("model", "data")]
    except UserError:
        names = ["", ""]
    epochs = train.get("epochs")
    return ListedRun(
        folder=folder.path,
        state=_condition(folder, status.get("state"), bool(results)),
        model=names[0],
        data=names[1],
        epochs=epochs if isinstance(epochs, int) else None,
        metric=metric,
        value=test.get(metric),
        size=size_of(folder.path),
        since=str(status.get("since", "")),
        why=str(status.get("why", "")),
        test=test,
    )


def _condition(folder: RunFolder, stored: Any, has_results: bool) -> Condition:
    if is_locked(folder):
        return "running"
    if stored == "running":
        return "killed"
    if stored in ("failed", "preempted", "pruned"):  # of an extension, if there are results
        return stored
    return "done" if has_results else "damaged" if folder.metrics.is_file() else "unknown"


def _name_in(folder: RunFolder, part: str) -> str:
    """Name of a run's model or data, from its class."""
    if not folder.record.is_file():
        return ""
    target = str(OmegaConf.select(folder.config(), f"{part}._target_") or "").rpartition(".")[2]
    return target.removesuffix("Data").lower()


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size
    return sum(size_of(child) for child in path.iterdir())


def run_folder(path: str) -> RunFolder:
    """An existing run folder.

    Raises:
        UserError: If it is none.
    """
    folder = RunFolder(path)
    folder.config()
    return folder


def differing_settings(first: RunFolder, second: RunFolder) -> dict[str, tuple[Any, Any]]:
    """Settings and circumstances that may change numbers and differ between two runs; None where one lacks them.

    Raises:
        UserError: If a folder is not a run.
    """
    sides = []
    for folder in (first, second):
        cfg, record = folder.config(), read_json_or_empty(folder.metrics).get("run") or {}
        circumstances = {key: record.get(key) for key in ENVIRONMENT} if record else {}
        circumstances |= {f"version of {name}": text for name, text in (record.get("versions") or {}).items()}
        sides.append((settings_of(cfg), circumstances))
    (settings, around), (other_settings, other_around) = sides
    found = {
        key: (settings.get(key), other_settings.get(key))
        for key in {**settings, **other_settings}
        if settings.get(key) != other_settings.get(key)
    }
    both = around.keys() & other_around.keys()
    return found | {key: (around[key], other_around[key]) for key in around if key in both
                    and around[key] != other_around[key]}  # fmt: skip


def differing_metrics(first: RunFolder, second: RunFolder) -> dict[str, tuple[float | None, float | None]]:
    """Test metrics that differ between two runs, by name; None where one has no finite value."""
    sides = [read_json_or_empty(folder.metrics).get("test") or {} for folder in (first, second)]
    pairs = {name: (_finite(sides[0].get(name)), _finite(sides[1].get(name))) for name in {**sides[0], **sides[1]}}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _finite(value: Any) -> float | None:
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def removable(outputs: Path) -> list[Removable]:
    """What may be deleted below a folder without losing a result; nothing of a run that is at work.

    Raises:
        UserError: If there is no such folder.
    """
    return [item for folder in run_folders(outputs) for item in _removable_of(folder)]


def _removable_of(folder: RunFolder) -> list[Removable]:
    state = listed(folder).state
    if state == "running":
        return []

    def item(path: Path, why: str) -> Removable:
        return Removable(folder.path, path, size_of(path), why)

    if state in ("failed", "killed") and not folder.metrics.is_file() and not any(folder.path.rglob("*.ckpt")):
        return [item(folder.path, f"the run {'was killed' if state == 'killed' else state} before a checkpoint")]
    found = []
    if state == "done" and folder.best.is_file():
        others = [folder.last, folder.previous, folder.checkpoints / "damaged.ckpt"]
        found = [item(path, "the run is done, but cannot then be extended") for path in others if path.is_file()]
    oldest = time.time() - FRESH
    for partial in sorted(folder.path.rglob(".*.part")):
        if partial.lstat().st_mtime < oldest:
            found.append(item(partial, "left by a killed process"))
    return found


def remove(items: list[Removable]) -> int:
    """Deletes what may go, unless a process has begun to work there.

    Returns:
        The bytes that were freed.
    """
    freed = 0
    for item in items:
        if is_locked(RunFolder(item.run)) or not (item.path.exists() or item.path.is_symlink()):
            continue
        if item.path.is_dir() and not item.path.is_symlink():
            shutil.rmtree(item.path)
        else:
            item.path.unlink()
        freed += item.size
    return freed


def known(name: str, value: str | None, values: set[str]) -> None:
    """Checks a filter.

    Raises:
        UserError: If no run has that value.
    """
    values = values - {""}
    if value is not None and value not in values:
        expected = f"expected one of {', '.join(sorted(values))}" if values else "there is none"
        raise UserError(f"{name}={value}: no run has it; {expected}{nearest(value, values)}")
