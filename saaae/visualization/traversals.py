"""Traversals: one dimension of an image's latent moved over the range of the prior."""

from collections.abc import Sequence

import torch
from torch import Tensor

from saaae.models.autoencoder import ImageAutoencoder
from saaae.types import Batch

REACH, STEPS = 3.0, 9
"""Standard deviations of the prior to both sides of its mean, and images of a traversal."""


def kl_of_dimensions(model: ImageAutoencoder, kl: Tensor) -> Tensor:
    """KL of each dimension that can be traversed (D,), of a latent map of each channel, of that of all values."""
    return kl.view(model.latent_shape).flatten(1).sum(1) if len(model.latent_shape) > 1 else kl


def traversals(
    model: ImageAutoencoder, batch: Batch, dimensions: Sequence[int], steps: int = STEPS
) -> list[tuple[Tensor, Tensor]]:
    """Latents (steps, *latent_shape) and their images (steps, C, H, W) for each chosen dimension.

    They are of the first image, with the dimension from -3 to 3 standard deviations of the prior around its mean. Of a
    latent map a dimension is a channel, moved at all positions.

    Args:
        model: The model, in evaluation mode.
        batch: The images.
        dimensions: Numbers of the dimensions, from 0.
        steps: Latents of each.
    """
    posterior = model.encode(batch)
    z, mean, scale = (part[:1] for part in (posterior.mode, posterior.prior_mean, posterior.prior_scale))
    values = torch.linspace(-REACH, REACH, steps, device=z.device)
    label = None if batch.label is None or not model.num_classes else batch.label[0].expand(steps)
    found = []
    for dimension in dimensions:
        moved = z.repeat(steps, *[1] * (z.dim() - 1))
        moved[:, dimension] = mean[:, dimension] + scale[:, dimension] * values.view(-1, *[1] * (z.dim() - 2))
        found.append((moved, model.generate(moved, label)))
    return found
