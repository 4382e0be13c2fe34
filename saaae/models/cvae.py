"""The conditional VAE: encoder and decoder take the class."""

from collections.abc import Callable
from functools import partial
from typing import Unpack

import torch
from torch import Tensor, nn

from saaae.errors import UserError
from saaae.layers.labels import LabelEmbedding
from saaae.models.autoencoder import ImageAutoencoder, Parts
from saaae.ranges import Fraction, PositiveInt
from saaae.types import Batch, Posterior

WITHHELD = -1
"""Class label of an image whose class is withheld from the model."""


class ConditionalVAE(ImageAutoencoder):
    """A VAE of images given their class (Kingma et al. 2014; Sohn et al. 2015).

    Args:
        num_classes: Number of classes; None, for data without classes, is refused.
        label_encoder: Makes the vectors that stand for classes, of `num_classes`.
        label_drop: Share of training images whose class is withheld (a vector of zeros), so that the model also
            works without a class (Ho and Salimans 2022).
        **parts: What it is made of; encoder and decoder also take a `condition_size`.

    Raises:
        UserError: If the data have no classes.
    """

    def __init__(
        self,
        *,
        num_classes: PositiveInt | None,
        label_encoder: Callable[..., nn.Module],
        label_drop: Fraction,
        **parts: Unpack[Parts],
    ) -> None:
        if num_classes is None:
            raise UserError(
                "model.num_classes=null: these data have no classes; expected data=mnist, or data=folder "
                "data.labels=folders"
            )
        labels = label_encoder(num_classes=num_classes)
        for name in ("encoder", "decoder"):
            parts[name] = partial(parts[name], condition_size=labels.size)
        super().__init__(**parts)
        self.labels, self.num_classes, self.label_drop = labels, num_classes, label_drop

    def training_batch(self, batch: Batch) -> Batch:
        """The batch with some classes withheld, from encoder and decoder alike."""
        if not self.label_drop:
            return batch
        label = self._label_of(batch)
        kept = batch.rng.uniform(label) > self.label_drop
        return batch._replace(label=torch.where(kept, label, WITHHELD))

    def _label_of(self, batch: Batch) -> Tensor:
        if batch.label is None:
            raise UserError("label: a conditional model needs the class of each image; these images have none")
        return batch.label

    @property
    def class_vectors(self) -> Tensor | None:
        return self.labels.embedding.weight.detach() if isinstance(self.labels, LabelEmbedding) else None

    def vectors(self, label: Tensor) -> Tensor:
        """Vectors (B, size) of classes (B,); zeros for those that are withheld."""
        return self.labels(label.clamp_min(0)) * (label != WITHHELD)[:, None]

    def condition(self, batch: Batch) -> Tensor:
        """Vectors (B, size) of the classes of a batch."""
        return self.vectors(self._label_of(batch))

    def encode(self, batch: Batch) -> Posterior:
        """Posterior of the inputs of a batch, given their classes."""
        return self.posterior(self.encoder(batch.input, self.condition(batch)), batch.rng)

    def decoder_output(self, z: Tensor, batch: Batch) -> Tensor:
        """The decoder's values, given the classes of the batch."""
        return self.decoder(z, self.condition(batch))

    def generate(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Images (N, C, H, W) in [0, 1] of codes (N, D) and classes (N,); None withholds the classes."""
        label = torch.full((len(z),), WITHHELD, device=z.device) if label is None else label
        return self.likelihood.mean(self.decoder(z, self.vectors(label)))
