"""SAAAE: image autoencoders on PyTorch Lightning and Hydra. Importing it imports no torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from saaae.inference.model import TrainedModel
    from saaae.runs.listing import ListedRun


def load(
    path: str | Path,
    device: str = "cpu",
    checkpoint: Literal["best", "last"] = "best",
    trust: Sequence[str] = (),
) -> "TrainedModel":
    """A trained model in evaluation mode: `load("outputs/x").reconstruct(images)`.

    Args:
        path: Run folder, checkpoint file, or folder that `saaae export` has written.
        device: Where it computes: `cpu`, `cuda`, `cuda:1`, `mps`.
        checkpoint: Of a run folder, `best` or `last`.
        trust: Packages besides saaae whose classes its configuration may instantiate.

    Raises:
        UserError: If the path is none of these, a file is missing or damaged, or a class is not trusted.
    """
    from saaae.inference.model import load_model

    return load_model(Path(path), device, checkpoint, trust)


def list_runs(outputs: str | Path = "outputs") -> list["ListedRun"]:
    """All runs below a folder, those of sweeps too, with state, model, data and main test metric.

    Raises:
        UserError: If there is no such folder.
    """
    from saaae.runs.listing import list_runs

    return list_runs(outputs)
