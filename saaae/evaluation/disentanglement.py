"""Disentanglement of a trained model's latent vector, on data with known factors."""

from typing import Any

import torch

from saaae.data.datamodule import ImageDataModule
from saaae.evaluation.batches import latents
from saaae.metrics.disentanglement import disentanglement_scores
from saaae.metrics.latent import ACTIVE
from saaae.models.autoencoder import ImageAutoencoder, evaluating


def disentanglement(model: ImageAutoencoder, data: ImageDataModule) -> dict[str, Any] | None:
    """Scores of the posterior means of all test images; of a model with a KL, dimensions whose
    mean varies by less than ACTIVE count as constant.

    Returns:
        Plain values: the names of the factors that vary, and the scores, all but one for each of them; None for data
        without known factors and for latent maps.
    """
    if data.factor_names is None or len(model.latent_shape) > 1:
        return None
    with evaluating(model):
        means = latents(model, data, "test", torch.arange(data.num_images("test"))).z[:, : model.latent_shape[0]]
    if model.is_variational:
        means[:, means.var(0) <= ACTIVE] = 0.0
    factors = data.factors("test").numpy()
    varying = factors.min(0) < factors.max(0)
    if not varying.any():
        return None
    scores = disentanglement_scores(means, factors[:, varying])
    names = [name for name, varies in zip(data.factor_names, varying, strict=True) if varies]
    return {"factors": names, **{name: values.tolist() for name, values in scores.items()}}
