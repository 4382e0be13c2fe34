"""SAAAE: image autoencoders on PyTorch Lightning and Hydra. Importing it imports no torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from saaae.data.datamodule import ImageDataModule
    from saaae.models.autoencoder import ImageAutoencoder


def load(
    run: str | Path, checkpoint: str = "best", trust: Sequence[str] = ()
) -> "tuple[ImageAutoencoder, ImageDataModule]":
    """The trained model of a run, in evaluation mode on the CPU, and its loaded data.

    `model.reconstruct(data.batch("test", torch.arange(8)))` gives images (8, C, H, W) in [0, 1].

    Args:
        run: The run folder.
        checkpoint: `best` or `last`.
        trust: Packages besides saaae whose classes the run's configuration may instantiate.

    Raises:
        UserError: If the folder is no run, a checkpoint or the data are missing, or a class is not trusted.
    """
    from saaae.training.build import load_run

    return load_run(Path(run), checkpoint, trust)
