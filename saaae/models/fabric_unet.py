"""The fabric U-Net: restores synthetic defects and marks them, and so finds real ones."""

from collections.abc import Mapping
from typing import Unpack

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from saaae.metrics.pixel_detection import smooth
from saaae.models.autoencoder import LatentChoice, Parts
from saaae.models.unet import UNet
from saaae.objectives.elbo import beta_elbo_loss
from saaae.ranges import NonNegativeFloat, PositiveFloat
from saaae.types import Batch, Loss, Posterior

FLAT = 1e-3
"""Least standard deviation by which an image is divided."""
MIRRORS: tuple[list[int], ...] = ([], [-1], [-2], [-2, -1])
"""Axes along which the mirror images of an image, and itself, are flipped."""


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (B, 1, 1, 1) of the pixels of each image (B, C, H, W)."""
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean, x.std((1, 2, 3), keepdim=True, correction=0).clamp_min(FLAT)


class FabricUNet(UNet):
    """A denoising autoencoder with a second output (as in DRAEM, Zavrtanik et al. 2021): where its input was changed.

    It is trained on sound images with `corruption=synthetic_defects`. The networks see images of mean 0 and standard
    deviation 1. The objective, in nats per image, is the absolute error of the restored image in standard deviations
    of the input (Laplace of scale 1), with a greater weight where it was visibly changed, plus the cross-entropy of the
    marks of these pixels. The likelihood says how well images are restored (`nll`); it is not trained on.

    Args:
        visible: Smoothed absolute change, in standard deviations of the image, from which a pixel counts as changed.
        smoothing: Standard deviation of this smoothing in pixels.
        changed_weight: Weight of the error of changed pixels, beyond 1.
        positive_weight: Weight of changed pixels in the cross-entropy.
        flips: Whether the anomaly map is the mean over an image and its mirror images, at four times the cost.
        residual: Weight in the anomaly map of the change that the model makes, in standard deviations of the image.
        **parts: What it is made of.
    """

    marks = True

    def __init__(
        self,
        *,
        visible: PositiveFloat,
        smoothing: NonNegativeFloat,
        changed_weight: NonNegativeFloat,
        positive_weight: PositiveFloat,
        flips: bool,
        residual: NonNegativeFloat,
        **parts: Unpack[Parts],
    ) -> None:
        super().__init__(**parts)
        self.visible, self.smoothing = visible, smoothing
        self.changed_weight, self.positive_weight = changed_weight, positive_weight
        self.flips, self.residual = flips, residual

    def prepare(self, batch: Batch) -> Batch:
        """The batch with the standard deviations of its inputs, and the encoder's levels of the standardised inputs."""
        mean, std = moments(batch.input)
        return batch._replace(skips=(std, *self.encoder((batch.input - mean) / std)))

    def levels(self, batch: Batch) -> tuple[Tensor, ...]:
        return super().levels(batch)[1:]

    def scale(self, batch: Batch) -> Tensor:
        """Standard deviation (B, 1, 1, 1) of the pixels of each input."""
        return batch.skips[0] if batch.skips else moments(batch.input)[1]

    def outputs(self, z: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """The restored image (B, C, H, W), not clipped, and the logit of a visible change (B, 1, H, W); float32."""
        change, logit = self.decoder(z, self.levels(batch)).float().tensor_split([batch.input.shape[1]], 1)
        return batch.input + self.scale(batch) * change, logit

    def decoder_output(self, z: Tensor, batch: Batch) -> Tensor:
        """The restored image as the likelihood takes it, before its activation."""
        return self.likelihood.raw(self.outputs(z, batch)[0])

    def anomaly_map(self, batch: Batch, latents: LatentChoice = "mean") -> Tensor:
        """The logit of a visible change, plus `residual` times the change that the model makes."""
        return self.marked(batch, latents)[1]

    def marked(self, batch: Batch, latents: LatentChoice = "mean") -> tuple[Tensor, Tensor]:
        restored, logit, change = self.surprise(batch, latents)
        return self.likelihood.mean(self.likelihood.raw(restored)), logit + self.residual * change

    def surprise(self, batch: Batch, latents: LatentChoice = "mean") -> tuple[Tensor, Tensor, Tensor]:
        """The restored image, the logit of a visible change, and the smoothed change in deviations of the input.

        With `flips` the last two (B, 1, H, W) are the means over the image and its mirror images.
        """
        seen = self._mirrored(batch) if self.flips else batch if batch.skips else self.prepare(batch)
        posterior = self.encode(seen)
        restored, logit = self.outputs(posterior.mode if latents == "mean" else posterior.rsample(seen.rng), seen)
        change = smooth(((restored - seen.input) / self.scale(seen)).abs().mean(1, keepdim=True), self.smoothing)
        found = torch.cat([logit, change], 1)
        if self.flips:
            parts = zip(found.chunk(len(MIRRORS)), MIRRORS, strict=True)
            found = torch.stack([part.flip(axes) for part, axes in parts]).mean(0)
        return restored[: len(batch.input)], found[:, :1], found[:, 1:]

    def _mirrored(self, batch: Batch) -> Batch:
        """The images of a batch, then their mirror images (4B, C, H, W), prepared; only for the networks."""
        images = torch.cat([batch.input.flip(axes) for axes in MIRRORS])
        rows = torch.arange(len(batch.input), device=images.device).repeat(len(MIRRORS))
        return self.prepare(batch._replace(input=images, rng=batch.rng.of(rows)))

    def changed(self, batch: Batch) -> Tensor:
        """1 where the input was visibly changed, else 0 (B, 1, H, W)."""
        change = ((batch.input - batch.target) / self.scale(batch)).abs().mean(1, keepdim=True)
        return (smooth(change, self.smoothing) > self.visible).float()

    def marking(self, logit: Tensor, changed: Tensor) -> Tensor:
        """Weighted cross-entropy of each pixel (B, 1, H, W) in nats."""
        weight = torch.full((), self.positive_weight, device=logit.device)
        return binary_cross_entropy_with_logits(logit, changed, reduction="none", pos_weight=weight)

    def loss(self, batch: Batch, step: int) -> tuple[Loss, Posterior]:
        """The objective; `nll` is that of the restored images, of which only a learned scale is trained."""
        batch = self.prepare(self.training_batch(batch))
        posterior = self.encode(batch)
        restored, logit = self.outputs(posterior.rsample(batch.rng), batch)
        changed = self.changed(batch)
        error = (restored - batch.target).abs() / self.scale(batch)
        restoring = ((1 + self.changed_weight * changed) * error).flatten(1).sum(1)
        nll = self.likelihood.nll(self.likelihood.raw(restored.detach()), batch.target)
        objective = restoring + self.marking(logit, changed).flatten(1).sum(1) + nll - nll.detach()
        return beta_elbo_loss(objective, posterior, self.beta, step)._replace(nll=nll.mean()), posterior

    def scores(self, batch: Batch, posterior: Posterior) -> Mapping[str, Tensor]:
        """Also `marking`: the cross-entropy of the marks, mean over the pixels of each image (B,).

        Not of images that may have real defects, which no mask of synthetic ones knows.
        """
        if batch.mask is not None:
            return {}
        logit = self.outputs(posterior.mode, batch)[1]
        return {"marking": self.marking(logit, self.changed(batch)).flatten(1).mean(1)}
