"""The attention autoencoder."""

from saaae.models.autoencoder import ImageAutoencoder


class CBAMAutoencoder(ImageAutoencoder):
    """A deterministic autoencoder with attention in its networks (CBAM, Woo et al. 2018).

    Its latent is `encode(batch).mode`, its reconstruction `forward(batch)`.
    """
