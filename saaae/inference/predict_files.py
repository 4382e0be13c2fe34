"""Prediction on many files: what is missing, in one process or several, one line for each."""

import csv
import io
import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from saaae.atomic import write_text
from saaae.errors import UserError
from saaae.inference.image_names import check_folder, find_images, results_in
from saaae.inference.model import load_model
from saaae.inference.predict import Predictor, Result
from saaae.inference.source import CheckpointName
from saaae.inference.tiled_model import Options
from saaae.inference.unfinished import folder_of

SCORES = "scores.csv"


@dataclass(frozen=True)
class Task:
    """One call: the model, and how it is applied; arguments of `saaae predict`."""

    run: Path
    options: Options
    device: str = "cpu"
    checkpoint: CheckpointName = "best"
    trust: Sequence[str] = ()
    threads: int | None = None

    def predictor(self) -> Predictor:
        return Predictor(load_model(self.run, self.device, self.checkpoint, self.trust), self.options)


def predict_files(
    task: Task, images: str | Sequence[str], to: Path, processes: int = 1, overwrite: bool = False
) -> int:
    """Restores image files into a folder, those whose results are not there yet.

    Args:
        task: The model and how it is applied.
        images: A file, a folder, a pattern or a list of these.
        to: Folder of the results.
        processes: Processes that share the files.
        overwrite: Whether results that are there are made again.

    Returns:
        0, or 1 if some files could not be used.

    Raises:
        UserError: If the settings are wrong, or the only file cannot be used.
    """
    found = find_images(images)
    check_folder(to, images, found)
    if task.threads:
        torch.set_num_threads(task.threads)
    predictor = task.predictor()
    outputs = {name: predictor.outputs(to / name) for name in found}
    _check_names(outputs)
    has_scores = predictor.finds_defects
    scores = _read_scores(to / SCORES) if has_scores and not overwrite else {}
    missing = {
        name: path
        for name, path in found.items()
        if overwrite
        or not all(file.is_file() for file in outputs[name].values())
        or (has_scores and name not in scores)
    }
    for name in found.keys() - missing.keys():  # of a process that was killed while it cleaned up
        shutil.rmtree(folder_of(to / name), ignore_errors=True)
    if len(missing) < len(found):
        print(f"{len(found) - len(missing)} of {len(found)} are done already; overwrite=true makes them again")
    failed = 0
    with results_in(to):
        for name, result in _results(task, predictor, missing, to, processes):
            if isinstance(result, UserError):
                if len(found) == 1:
                    raise result
                print(f"error: {result}", file=sys.stderr, flush=True)
                failed += 1
                continue
            print(f"{to / name}: {result.note}", flush=True)
            if result.score is not None:
                scores[name] = result.score
                _write_scores(to / SCORES, scores)
    if failed:
        print(f"{failed} of {len(found)} images could not be used", file=sys.stderr)
    return int(failed > 0)


def _results(
    task: Task, predictor: Predictor, files: dict[str, Path], to: Path, processes: int
) -> Iterator[tuple[str, Result | UserError]]:
    processes = min(processes, len(files))
    if processes <= 1:
        for name, path in files.items():
            with tqdm(unit="tile", desc=name, leave=False, disable=None) as bar:
                yield name, _attempt(predictor, path, to / name, _shown_in(bar))
        return
    threads = max(1, (os.cpu_count() or 1) // processes)
    pool = ProcessPoolExecutor(
        processes,
        multiprocessing.get_context("spawn"),
        initializer=_start,
        initargs=(task, min(threads, torch.get_num_threads())),
    )
    with pool:
        try:
            jobs = {pool.submit(_work, path, to / name): name for name, path in files.items()}
            for job in as_completed(jobs):
                yield jobs[job], job.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _shown_in(bar: tqdm) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return progress


_PREDICTOR: list[Predictor] = []
"""That of a process of the pool."""


def _start(task: Task, threads: int) -> None:
    torch.set_num_threads(threads)
    _PREDICTOR.append(task.predictor())


def _work(path: Path, name: Path) -> Result | UserError:
    return _attempt(_PREDICTOR[0], path, name)


def _attempt(predictor: Predictor, path: Path, name: Path, *progress: Callable[[int, int], None]) -> Result | UserError:
    try:
        return predictor.predict(path, name, *progress)
    except UserError as error:
        return error


def _check_names(outputs: dict[str, dict[str, Path]]) -> None:
    """Raises UserError if two results have one name."""
    owners: dict[Path, str] = {}
    for name, files in outputs.items():
        for file in files.values():
            if owners.setdefault(file, name) != name:
                raise UserError(f"images: results of {owners[file]} and {name} are both {file.name}; rename one")


def _read_scores(path: Path) -> dict[str, float]:
    try:
        return {row["name"]: float(row["score"]) for row in csv.DictReader(path.read_text().splitlines())}
    except (OSError, KeyError, TypeError, ValueError):
        return {}


def _write_scores(path: Path, scores: dict[str, float]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("name", "score"))
    writer.writerows((name, f"{score:.6g}") for name, score in sorted(scores.items()))
    write_text(path, text.getvalue())
