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


def train(overrides: Sequence[str] = (), config_dir: str | Path | None = None) -> "ListedRun":
    """Trains as `python train.py` with the same words does: `run = saaae.train(["model=vae", "name=x"])`.

    It trains in this process, and writes the same files to the same folder below the working directory: a finished run
    is returned at once, and one with a `name=` that was interrupted is continued. Ctrl-C finishes the step and saves,
    then raises KeyboardInterrupt. The random generators of the process are seeded with `seed=`.

    Args:
        overrides: `group=option` and `key=value`, as on the command line.
        config_dir: Folder of further options, as `--config-dir`.

    Returns:
        What `list_runs` says of the run, such as its `folder` for `load` and its metrics in `test`.

    Raises:
        UserError: If an override is wrong, with the line of the command; also for a sweep or several processes.
        RunFailedError: If the run ends without usable results.
    """
    from saaae.cli.in_process import train

    return train(overrides, config_dir)
