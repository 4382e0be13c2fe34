"""SAAAE: the self-attention anchored VAE."""

from collections.abc import Mapping

from torch import Tensor

from saaae.models.base import ImageAutoencoder
from saaae.posteriors.anchored import AnchoredGaussian
from saaae.types import Batch, Posterior


class SAAAE(ImageAutoencoder):
    """A VAE that injects less noise into its code where self-attention finds the image important.

    z = mean + std * (1 - a) * eps; everything that differs from the VAE lives in `AnchoredPosterior`.
    """

    @property
    def caveat(self) -> str:
        """The nominal objective is no bound."""
        nominal = getattr(self.posterior, "objective", "") == "nominal"
        return "posterior.kl=nominal charges noise that is then removed: the loss is NOT an ELBO" if nominal else ""

    def maps(self, batch: Batch, posterior: Posterior) -> Mapping[str, Tensor]:
        """Also the importance map (B, 1, h, w) in [0, 1] of a latent map."""
        importance = {}
        if isinstance(posterior, AnchoredGaussian) and posterior.anchor.dim() == 4:
            importance = {"importance": posterior.anchor}
        return {**importance, **super().maps(batch, posterior)}
