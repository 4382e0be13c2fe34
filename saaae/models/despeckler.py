"""The despeckler: a residual U-Net in the logarithm of intensity, with the latent at its coarsest level."""

from typing import Unpack

from torch import Tensor

from saaae.errors import UserError
from saaae.models.autoencoder import ImageAutoencoder, Parts
from saaae.types import Batch, Posterior


class Despeckler(ImageAutoencoder):
    """Removes speckle from amplitude images, blind to the number of looks (Zhang et al. 2018 for the residual in logs).

    The decoder also gets the features of each finer level of the encoder, so a stochastic latent is not needed and
    collapses: the default is deterministic.

    Raises:
        UserError: If the likelihood does not take logarithms of intensity.
    """

    generates = False

    def __init__(self, **parts: Unpack[Parts]) -> None:
        activation = parts["likelihood"].activation
        if activation != "log_intensity":
            raise UserError(f"likelihood.activation={activation}: a despeckler gives logs; expected log_intensity")
        super().__init__(**parts)

    def prepare(self, batch: Batch) -> Batch:
        """The batch with the encoder's levels, which encoder and decoder share."""
        return batch._replace(skips=self.encoder(batch.input))

    def encode(self, batch: Batch) -> Posterior:
        """Posterior of the inputs of a batch, from the coarsest level."""
        return self.posterior(self._levels(batch)[-1], batch.rng)

    def decoder_output(self, z: Tensor, batch: Batch) -> Tensor:
        """Logarithms of intensity (B, C, H, W) of latents for the images of a batch."""
        return self.decoder(z, self._levels(batch))

    def _levels(self, batch: Batch) -> tuple[Tensor, ...]:
        return batch.skips or self.encoder(batch.input)
