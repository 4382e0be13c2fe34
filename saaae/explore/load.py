"""Loads what the page shows."""

import sys
from collections.abc import Sequence
from pathlib import Path

from saaae.errors import UserError
from saaae.explore.explored import Explored
from saaae.explore.gallery import Gallery
from saaae.explore.server import Page
from saaae.inference.image_names import find_images
from saaae.inference.model import TrainedModel, load_model
from saaae.inference.source import CheckpointName

SERVING = (
    "batch_size", "num_workers", "resident", "corruption", "target", "cache_dir", "allow_duplicates", "on_error"
)  # fmt: skip
"""Settings of data that leave the splits as they are."""


def load(
    runs: Sequence[Path],
    images: str | Sequence[str] | None = None,
    count: int = 256,
    device: str = "cpu",
    checkpoint: CheckpointName = "best",
    trust: Sequence[str] = (),
) -> Page:
    """The page of one run, or of two on the same images.

    Args:
        runs: Run folders, checkpoints or exported folders.
        images: Image files in place of the test images of the first run.
        count: Number of images, at most.
        device: Where it computes.
        checkpoint: Which checkpoint of a run folder.
        trust: Packages besides saaae whose classes the runs may use.

    Raises:
        UserError: If a run or an image cannot be read, or two runs take other images.
    """
    files = None if images is None else list(find_images(images).values())
    models = [load_model(run, device, checkpoint, trust) for run in runs]
    if files is None and not models[0].has_data:
        raise UserError(f"images: missing; expected image files, as {runs[0]} is exported and has no test images")
    for run, model in zip(runs[1:], models[1:], strict=True):
        _check_same_images(runs[0], models[0], run, model)
        if files is None and (differing := _other_splits(models[0], model)):
            print(
                f"warning: run={run}: other data.{', data.'.join(differing)} than {runs[0]}; it may have been trained "
                "on the images shown, which are test images of the first run",
                file=sys.stderr,
            )
    gallery = Gallery(models[0], count, files)
    for run, model in zip(runs, models, strict=True):
        if model.network.num_classes:
            _check_labels(run, model.network.num_classes, gallery.groups.get("class", []))
    names = [run.expanduser().resolve().name for run in runs]
    if len(set(names)) < len(names):
        names = [str(run) for run in runs]
    return Page([Explored(model, gallery, name) for model, name in zip(models, names, strict=True)])


def _check_same_images(first: Path, one: TrainedModel, second: Path, other: TrainedModel) -> None:
    """Raises UserError if two models do not take the same images."""
    for what in ("channels", "image_size", "domain"):
        if (expected := getattr(one, what)) != (found := getattr(other, what)):
            raise UserError(f"run={second}: images of {what} {found}; expected {expected} as {first}")
    classes = one.network.num_classes, other.network.num_classes
    if None not in classes and classes[0] != classes[1]:
        raise UserError(f"run={second}: {classes[1]} classes; expected {classes[0]} as {first}")


def _other_splits(one: TrainedModel, other: TrainedModel) -> list[str]:
    """Settings of the data that differ and may put other images into the splits."""
    first, second = one.config["data"], other.config["data"]
    return [key for key in sorted(first | second) if key not in SERVING and first.get(key) != second.get(key)]


def _check_labels(run: Path, classes: int, labels: Sequence[int]) -> None:
    """Raises UserError if the images are of classes that a conditional model does not have."""
    if labels and not 0 <= min(labels) <= max(labels) < classes:
        raise UserError(
            f"run={run}: a model of {classes} classes; expected images of classes 0 to {classes - 1}, "
            f"not {min(labels)} to {max(labels)}"
        )
