"""Batches of chosen images for a trained model, and their latents."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from saaae.data.datamodule import ImageDataModule
from saaae.models.autoencoder import ImageAutoencoder
from saaae.types import Batch, Split


def batches(model: ImageAutoencoder, data: ImageDataModule, split: Split, indices: Tensor) -> Iterator[Batch]:
    """Chosen images of a split in batches, on the model's device, with what the model observes of them."""
    for part in indices.split(data.batch_size):
        yield model.prepare(data.batch(split, part, model.device))


class Latents(NamedTuple):
    """What a decoder needs of the images of a split.

    Attributes:
        z: Posterior means (N, D), float64.
        label: Classes (N,), int32; zeros for a model without.
    """

    z: np.ndarray
    label: np.ndarray


def latents(model: ImageAutoencoder, data: ImageDataModule, split: Split, indices: Tensor) -> Latents:
    """What the decoder needs of chosen images of a split."""
    parts = []
    for batch in batches(model, data, split, indices):
        z = model.encode(batch).mode.flatten(1)
        parts.append((z, batch.label if model.num_classes and batch.label is not None else z.new_zeros(len(z))))
    means, labels = (torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True))
    return Latents(means.astype(np.float64), labels.astype(np.int32))
