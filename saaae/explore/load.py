"""Loads what the page shows."""

from collections.abc import Sequence
from pathlib import Path

from saaae.errors import UserError
from saaae.explore.explored import Explored
from saaae.explore.gallery import Gallery
from saaae.explore.server import Page
from saaae.inference.image_names import find_images
from saaae.inference.model import TrainedModel, load_model
from saaae.inference.source import CheckpointName


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
    for run, model in zip(runs[1:], models[1:], strict=True):
        _check_same_images(runs[0], models[0], run, model)
    gallery = Gallery(models[0], count, files)
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
