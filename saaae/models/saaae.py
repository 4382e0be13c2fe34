"""SAAAE: the self-attention anchored VAE."""

from collections.abc import Mapping

from torch import Tensor

from saaae.models.autoencoder import ImageAutoencoder
from saaae.posteriors.anchored import AnchoredGaussian
from saaae.types import Batch, Posterior


class SAAAE(ImageAutoencoder):
    """A VAE that injects less noise into its latent where self-attention finds the image important.

    z = mean + std * (1 - a) * eps; everything that differs from the VAE lives in `AnchoredPosterior`, or, in the form
    that leaves the noise alone and anchors the prior, in `AnchoredPriorPosterior`.
    """

    @property
    def loss_warning(self) -> str:
        """The nominal objective is not a bound."""
        nominal = getattr(self.posterior, "objective", "") == "nominal"
        return "posterior.kl=nominal charges noise that is then removed: the loss is NOT an ELBO" if nominal else ""

    def maps(self, batch: Batch, posterior: Posterior) -> Mapping[str, Tensor]:
        """Also anchor and injected noise; those of a latent vector are one row of its dimensions (B, 1, 1, D)."""
        anchor, own = self.anchor(posterior), dict[str, Tensor]()
        if anchor is not None:
            noise = posterior.variance.sqrt()
            noise = noise.unflatten(1, self.latent_shape).mean(1, keepdim=True) if anchor.dim() == 4 else noise
            own = {"anchor": anchor, "injected noise (std)": noise}
        own = {name: values if values.dim() == 4 else values[:, None, None] for name, values in own.items()}
        return {**own, **super().maps(batch, posterior)}

    def anchor(self, posterior: Posterior) -> Tensor | None:
        return posterior.anchor if isinstance(posterior, AnchoredGaussian) else None
