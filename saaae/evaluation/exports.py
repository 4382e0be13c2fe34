"""Files of a trained model: reconstructions of test images, traversals of a latent, and images from its prior."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.utils import save_image

from saaae.atomic import replacing
from saaae.data.datamodule import ImageDataModule, spread
from saaae.data.listing import class_number
from saaae.errors import UserError
from saaae.evaluation.batches import batches
from saaae.models.autoencoder import ImageAutoencoder, LatentChoice, evaluating
from saaae.rng import IndexedRandom
from saaae.visualization.traversals import kl_of_dimensions, traversals


def reconstructed(
    model: ImageAutoencoder, data: ImageDataModule, indices: Tensor, latents: LatentChoice = "mean"
) -> dict[str, np.ndarray]:
    """`input`, `target` and `reconstruction` (N, C, H, W) of test images, float32 in [0, 1].

    Args:
        model: The model.
        data: Where the test images are.
        indices: Which of them (N,).
        latents: Latents of the reconstructions.
    """
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    with evaluating(model):
        for batch in batches(model, data, "test", indices):
            found.append((batch.input, batch.target, model.reconstruct(batch, latents)))
    parts = (torch.cat(part).float().cpu().numpy() for part in zip(*found, strict=True))
    return dict(zip(("input", "target", "reconstruction"), parts, strict=True))


def save_arrays(
    model: ImageAutoencoder, data: ImageDataModule, count: int, path: Path, latents: LatentChoice = "mean"
) -> Path:
    """Writes what becomes of the first `count` test images to an .npz file."""
    arrays: dict[str, Any] = reconstructed(model, data, torch.arange(min(count, data.num_images("test"))), latents)
    with replacing(path) as file:
        np.savez_compressed(file, **arrays)
    return path


def save_examples(model: ImageAutoencoder, data: ImageDataModule, count: int, path: Path) -> None:
    """Writes what becomes of `count` fixed test images, as uint8 and with their `index`: runs compare by them."""
    indices = spread(data, "test", count)
    arrays = reconstructed(model, data, indices)
    small: dict[str, Any] = {key: (values.clip(0, 1) * 255 + 0.5).astype(np.uint8) for key, values in arrays.items()}
    with replacing(path) as file:
        np.savez_compressed(file, index=indices.numpy(), **small)


def traversed(model: ImageAutoencoder, request: int | Sequence[int], kl: Tensor | None = None) -> list[int]:
    """Numbers of the latent dimensions that `traversals=` asks for; of a latent map a dimension is a channel.

    Args:
        model: The model.
        request: Their numbers, or how many: those of the highest KL.
        kl: Mean KL of each latent value (D,) in nats; None where it is not known, for the first ones.

    Raises:
        UserError: If the model has no such dimensions.
    """
    size = model.latent_shape[0]
    if isinstance(request, int):
        if request > size:
            raise UserError(f"traversals={request}: the latent has {size} dimensions; expected at most {size}")
        order = range(size) if kl is None else kl_of_dimensions(model, kl).argsort(descending=True).tolist()
        return list(order)[:request]
    if unknown := [number for number in request if number >= size]:
        raise UserError(f"traversals: the latent has no dimension {unknown[0]}; expected 0 to {size - 1}")
    return list(request)


def save_traversals(
    model: ImageAutoencoder, data: ImageDataModule, request: int | Sequence[int], kl: Tensor | None, path: Path
) -> Path:
    """Writes the traversals of the first test image to an .npz file, as the picture of traversals shows them.

    It has the numbers of the dimensions `dimension` (R,), the moved `latents` (R, steps, ...), and their `images`
    (R, steps, C, H, W), float32 in [0, 1].

    Args:
        model: The model.
        data: Its data.
        request: Which dimensions, or how many.
        kl: Mean KL of each latent value (D,) in nats; None where it is not known.
        path: The file.
    """
    dimensions = traversed(model, request, kl)
    with evaluating(model):
        moved = traversals(model, next(batches(model, data, "test", torch.tensor([0]))), dimensions)
    latents, images = (torch.stack(part).float().cpu().numpy() for part in zip(*moved, strict=True))
    with replacing(path) as file:
        np.savez_compressed(file, dimension=np.array(dimensions), latents=latents, images=images)
    return path


def chosen_class(model: ImageAutoencoder, label: int | str | None, names: Sequence[str] | None) -> int | None:
    """Number of the class of generated images; None takes the classes in turn.

    Args:
        model: The model.
        label: Number or name of the class; None for none.
        names: Names of the classes; None where they have none.

    Raises:
        UserError: If the model has no such class.
    """
    if label is None:
        return None
    if not model.num_classes:
        raise UserError(f"class={label}: a {type(model).__name__} knows no classes")
    return class_number(label, model.num_classes, names, "class")


def check_exports(model: ImageAutoencoder, cfg: Mapping[Any, Any], names: Sequence[str] | None = None) -> None:
    """Checks that a model has what evaluate.py is to export, before it is tested.

    Args:
        model: The model.
        cfg: The configuration of evaluate.py.
        names: Names of the classes; None where they have none.

    Raises:
        UserError: If it has no prior to generate from or traverse, not that class or dimension, or codes that do not
            make an image alone.
    """
    name = type(model).__name__
    if cfg["generate"] and not (model.generates and model.is_variational):
        raise UserError(f"generate: a {name} has no prior to generate from")
    if cfg["traversals"] and not (model.generates and model.is_variational):
        raise UserError(f"traversals: a {name} has no prior to traverse")
    if cfg["traversals"]:
        traversed(model, cfg["traversals"])
    chosen_class(model, cfg["class"], names)
    if cfg["code_steps"] and not model.generates:
        raise UserError(f"code_steps: the decoder of a {name} sees more than the code")


def save_generated(
    model: ImageAutoencoder,
    count: int,
    label: int | str | None,
    seed: int,
    path: Path,
    names: Sequence[str] | None = None,
) -> Path:
    """Writes images from the prior as one picture, and as `images` (N, C, H, W), float32 in [0, 1], beside it.

    Args:
        model: The model.
        count: Number of images N.
        label: Class of all of them, by number or name; None takes the classes in turn where there are any.
        seed: Of their codes.
        path: The PNG file; the .npz file has its name.
        names: Names of the classes; None where they have none.
    """
    with evaluating(model):
        rng = IndexedRandom(seed, torch.arange(count, device=model.device))
        images = model.sample(count, rng, chosen_class(model, label, names)).cpu()
    with replacing(path.with_suffix(".npz")) as file:
        np.savez_compressed(file, images=images.numpy())
    with replacing(path) as file:
        save_image(images, file, format="png", nrow=math.ceil(len(images) ** 0.5))
    return path
