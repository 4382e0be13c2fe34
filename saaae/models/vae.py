"""The plain variational autoencoder."""

from saaae.models.autoencoder import ImageAutoencoder


class VAE(ImageAutoencoder):
    """Variational autoencoder (Kingma and Welling 2014; Rezende et al. 2014)."""
