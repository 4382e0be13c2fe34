"""Batches of chosen images for a trained model."""

from collections.abc import Iterator

from torch import Tensor

from saaae.data.datamodule import ImageDataModule
from saaae.models.autoencoder import ImageAutoencoder
from saaae.types import Batch, Split


def batches(model: ImageAutoencoder, data: ImageDataModule, split: Split, indices: Tensor) -> Iterator[Batch]:
    """Chosen images of a split in batches, on the model's device, with what the model observes of them."""
    for part in indices.split(data.batch_size):
        yield model.prepare(data.batch(split, part, model.device))
