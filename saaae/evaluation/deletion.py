"""Deletion test: does masking the most important latent cells cost more SSIM than masking others?"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from saaae.data.datamodule import ImageDataModule, spread
from saaae.evaluation.batches import batches
from saaae.metrics.deletion import displaced, highest, ssim_without
from saaae.metrics.image import reconstruction_quality
from saaae.metrics.intervals import mean_interval
from saaae.models.autoencoder import ImageAutoencoder, evaluating
from saaae.types import Batch, Posterior

HIDDEN = (0.1, 0.25, 0.5)
"""Shares of the code that the deletion test hides."""

DELETION_IMAGES, RANDOM_DRAWS = 64, 2
"""Test images of the deletion test, and random displacements of the map of each."""


Importance = Callable[[Posterior], Tensor | None]
"""Importance of each latent cell, (B, D) of a vector, (B, 1, h, w) of a map; None if a model has none."""


def _deletion_losses(model: ImageAutoencoder, batch: Batch, importance_of: Importance) -> Tensor | None:
    """SSIM lost by each image (shares, 2, B): with the most important cells hidden, and with those elsewhere."""
    posterior = model.encode(batch)
    importance = importance_of(posterior)
    if importance is None:
        return None
    z, prior_mean, ties = posterior.mode, posterior.prior_mean, batch.rng.uniform(importance).flatten(1)
    elsewhere = [displaced(importance, batch.rng.uniform(importance)) for _ in range(RANDOM_DRAWS)]
    whole = reconstruction_quality(model.decode(z, batch), batch.target)["ssim"]

    def lost(scores: Tensor, share: float) -> Tensor:
        cells = highest(scores.flatten(1), share, ties)
        return whole - ssim_without(lambda z: model.decode(z, batch), z, cells, batch.target, prior_mean)

    losses = []
    for share in HIDDEN:
        control = torch.stack([lost(scores, share) for scores in elsewhere]).mean(0)
        losses.append(torch.stack([lost(importance, share), control]))
    return torch.stack(losses)


def deletion_test(
    model: ImageAutoencoder, data: ImageDataModule, importance_of: Importance | None = None
) -> dict[str, Any] | None:
    """Whether hiding the most important cells of the code costs more SSIM than hiding as many elsewhere.

    Hidden cells are at the mean of the prior.

    Args:
        model: The model.
        data: Its data.
        importance_of: Which cells are important; None for `model.importance`.

    Returns:
        Plain values: for each share of HIDDEN the mean SSIM lost, and the mean difference with its 95 % interval over
        images; None for a model without importance.
    """
    indices = spread(data, "test", DELETION_IMAGES)
    with evaluating(model):
        parts = [
            _deletion_losses(model, batch, importance_of or model.importance)
            for batch in batches(model, data, "test", indices)
        ]
    if not parts or parts[0] is None:
        return None
    losses = torch.cat([part for part in parts if part is not None], 2).double().cpu().numpy()
    differences = [mean_interval((important - control).tolist()) for important, control in losses]
    return {
        "images": len(indices),
        "hidden_share": list(HIDDEN),
        "ssim_lost_important": losses[:, 0].mean(1).tolist(),
        "ssim_lost_elsewhere": losses[:, 1].mean(1).tolist(),
        "difference": [mean for mean, _ in differences],
        "half_width_95": [half for _, half in differences],
    }
