"""Differences between two runs that should have the same results."""

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from saaae.runs.checkpoints import read_checkpoint

EXACT = ["state_dict", "training_weights", "averaged_steps", "optimizer_states", "lr_schedulers", "random_state",
         "schedules", "global_step", "validation"]  # fmt: skip


def same(a: Any, b: Any) -> bool:
    """Whether two checkpoint contents are bit-identical."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def numbers(run: Path) -> list[list[str]]:
    """Every row of metrics.csv except the speed, which differs between runs."""
    with (run / "metrics.csv").open(newline="") as file:
        return [row for row in csv.reader(file) if "images_per_second" not in row[2]]


def curves(run: Path) -> list[tuple[Any, ...]]:
    """TensorBoard contents: (tag, step, value) of scalars except the speed, (tag, step) of pictures and histograms."""
    board = EventAccumulator(str(run), {"scalars": 0, "images": 0, "histograms": 0}).Reload()
    tags = board.Tags()
    scalars = [(t, e.step, e.value) for t in tags["scalars"] for e in board.Scalars(t) if "images_per" not in t]
    images = [(t, e.step) for t in tags["images"] for e in board.Images(t)]
    return scalars + images + [(t, e.step) for t in tags["histograms"] for e in board.Histograms(t)]


def differences(a: Path, b: Path) -> list[str]:
    """Parts of the last checkpoint, curves or test in which two finished runs differ; empty if they are equal."""
    saved = [read_checkpoint(run / "checkpoints" / "last.ckpt") for run in (a, b)]
    found = [key for key in EXACT if not same(saved[0].get(key), saved[1].get(key))]
    found += [] if numbers(a) == numbers(b) else ["metrics.csv"]
    ours, theirs = Counter(curves(a)), Counter(curves(b))
    missing, more = ours - theirs, theirs - ours
    found += [f"TensorBoard (lacks {[*missing][:3]}, has more {[*more][:3]})"] if missing or more else []
    tests = [json.loads((run / "metrics.json").read_text())["test"] for run in (a, b)]
    return found + ([] if tests[0] == tests[1] else ["test"])


def assert_continued_exactly(zygote, folder, **options):
    """Resumes outputs/broken, which must then be equal to outputs/whole."""
    status, printed = zygote.run(folder, "resume=outputs/broken", **options)
    assert status == 0, printed
    assert "continued from step" in printed
    assert differences(folder / "outputs" / "whole", folder / "outputs" / "broken") == []
