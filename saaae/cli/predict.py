"""`saaae predict` and `saaae despeckle`: a trained model on the user's image files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import saaae
from saaae.cli.console import ConsoleCommand
from saaae.errors import UserError
from saaae.ranges import FiniteFloat, NonNegativeInt, PositiveInt

DESPECKLER = Path(saaae.__file__).parent / "weights" / "despeckler"
"""The packaged model."""


@dataclass(frozen=True)
class Despeckle:
    """Removes the speckle of radar images with the packaged model.

    Each image becomes one of the same kind, size, type and scale, with a ratio image beside it.
    """

    images: Annotated[str | list[str], "file, folder, pattern such as scenes/*.tif, or list of them"]
    to: Annotated[str, "folder of the results"]
    scale: Annotated[Literal["amplitude", "intensity", "decibel"] | None, "what radar pixels are; null: as the run"] = (
        None
    )
    full_scale: Annotated[FiniteFloat | None, "stored value that becomes 1.0; null: as the run, or by each image"] = (
        None
    )
    tile: Annotated[PositiveInt | None, "largest side of a tile in pixels; null chooses"] = None
    batch_size: Annotated[PositiveInt | None, "tiles that are processed together; null chooses"] = None
    latents: Annotated[bool, "whether the latents of the tiles are written too"] = False
    flips: Annotated[bool, "mean of eight mirrored and turned passes: better, eight times slower"] = False
    device: Annotated[str, "where it computes: cpu, cuda, cuda:1, mps"] = "cpu"
    threads: Annotated[PositiveInt | None, "CPU threads of each process, at most its share; null: torch's default"] = (
        None
    )
    processes: Annotated[PositiveInt, "processes that share the files"] = 1
    overwrite: Annotated[bool, "whether results that are there are made again"] = False


@dataclass(frozen=True, kw_only=True)
class Predict(Despeckle):
    """Applies a trained model to image files: restored images, anomaly maps, latents.

    Each image becomes one of the same kind, size, type and scale.
    """

    run: Annotated[str, "run folder, checkpoint or exported folder"]
    label: Annotated[NonNegativeInt | str | None, "class of all images, for a conditional model: number or name"] = None
    checkpoint: Annotated[Literal["best", "last"], "which checkpoint of a run folder"] = "best"
    trust: Annotated[tuple[str, ...], "packages besides saaae whose classes the run may use"] = ()


def predict(settings: Predict) -> int:
    """Applies a model to image files; returns the exit status."""
    return _predict(settings, Path(settings.run), settings.label, settings.checkpoint, settings.trust)


def despeckle(settings: Despeckle) -> int:
    """Applies the packaged despeckler to image files; returns the exit status.

    Raises:
        UserError: If it is not there.
    """
    if not DESPECKLER.is_dir():
        raise UserError(
            f"{DESPECKLER}: no such folder; the despeckler is not installed, use saaae predict run=<your run>"
        )
    return _predict(settings, DESPECKLER)


def _predict(
    settings: Despeckle,
    run: Path,
    label: int | str | None = None,
    checkpoint: Literal["best", "last"] = "best",
    trust: tuple[str, ...] = (),
) -> int:
    from saaae.inference.predict_files import Task, predict_files
    from saaae.inference.tiled_model import Options

    options = Options(
        settings.scale,
        settings.full_scale,
        settings.tile,
        settings.batch_size,
        settings.latents,
        label,
        settings.flips,
    )
    task = Task(run, options, settings.device, checkpoint, trust, settings.threads)
    to = Path(settings.to).expanduser()
    return predict_files(task, settings.images, to, settings.processes, settings.overwrite)


COMMAND = ConsoleCommand(
    Predict, predict, positional=("run", "images", "to"), example="saaae predict outputs/x images=scenes to=restored"
)
