"""Base of the models whose decoder also gets the encoder's finer levels."""

from torch import Tensor

from saaae.models.autoencoder import ImageAutoencoder
from saaae.types import Batch, Posterior


class UNet(ImageAutoencoder):
    """A U-Net with the latent at its coarsest level (Ronneberger et al. 2015).

    The decoder also gets the features of each finer level of the encoder, so a stochastic latent is not needed and
    collapses: the default is deterministic.
    """

    generates = False

    def prepare(self, batch: Batch) -> Batch:
        """The batch with the encoder's levels, which encoder and decoder share."""
        return batch._replace(skips=self.encoder(batch.input))

    def encode(self, batch: Batch) -> Posterior:
        """Posterior of the inputs of a batch, from the coarsest level."""
        return self.posterior(self.levels(batch)[-1], batch.rng)

    def decoder_output(self, z: Tensor, batch: Batch) -> Tensor:
        """The decoder's values (B, C, H, W) of latents for the images of a batch."""
        return self.decoder(z, self.levels(batch))

    def levels(self, batch: Batch) -> tuple[Tensor, ...]:
        """The encoder's features of each level, the finest first."""
        return batch.skips or self.prepare(batch).skips
