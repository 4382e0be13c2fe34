"""What a trained model gives away as files: reconstructions of test images, and images from its prior."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.utils import save_image

from saaae.data.datamodule import ImageDataModule
from saaae.errors import UserError
from saaae.models.base import ImageAutoencoder


@torch.no_grad()
def save_arrays(model: ImageAutoencoder, data: ImageDataModule, count: int, path: Path) -> Path:
    """Writes `input`, `target` and `reconstruction` (N, C, H, W) of the first test images to an .npz file.

    All are float32 in [0, 1]; reconstructions come from the code that the model's metrics take.

    Args:
        model: The model, in evaluation mode.
        data: Where the test images are.
        count: How many, at most.
        path: The file.
    """
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for indices in torch.arange(min(count, data.num_images("test"))).split(data.batch_size):
        batch = model.observe(data.batch("test", indices, model.device))
        posterior = model.encode(batch)
        z = posterior.mode if model.reconstruct_from == "mean" else posterior.rsample(batch.noise)
        found.append((batch.input, batch.target, model.decode(z, batch)))
    parts = (torch.cat(part).cpu().numpy() for part in zip(*found, strict=True))
    arrays: dict[str, Any] = dict(zip(("input", "target", "reconstruction"), parts, strict=True))
    np.savez_compressed(path, **arrays)
    return path


def refuse_generation(model: ImageAutoencoder, label: int | None) -> None:
    """Refuses to generate what a model cannot.

    Raises:
        UserError: If it has no prior, or not that class.
    """
    name, classes = type(model).__name__, model.num_classes
    if not (model.generates and model.has_bound):
        raise UserError(f"generate: a {name} has no prior to generate from")
    if label is not None and label >= (classes or 0):
        raise UserError(
            f"class={label}: " + (f"expected 0 to {classes - 1}" if classes else f"a {name} knows no classes")
        )


def save_generated(images: Tensor, path: Path) -> Path:
    """Writes images (N, C, H, W) as one picture, and as `images`, float32 in [0, 1], to an .npz file beside it."""
    arrays = images.detach().cpu()
    np.savez_compressed(path.with_suffix(".npz"), images=arrays.numpy())
    save_image(arrays, path, nrow=math.ceil(len(arrays) ** 0.5))
    return path
