"""SAAAE: the self-attention anchored VAE."""

from collections.abc import Mapping

from torch import Tensor

from saaae.models.base import ImageAutoencoder
from saaae.posteriors.anchored import AnchoredGaussian
from saaae.types import Posterior


class SAAAE(ImageAutoencoder):
    """A VAE that injects less noise into its code where self-attention finds the image important.

    z = mean + std * (1 - a) * eps; everything that differs from the VAE lives in `AnchoredPosterior`.
    """

    @property
    def caveat(self) -> str:
        """The nominal objective is no bound."""
        nominal = getattr(self.posterior, "objective", "") == "nominal"
        return "posterior.kl=nominal charges noise that is then removed: the loss is NOT an ELBO" if nominal else ""

    def maps(self, posterior: Posterior) -> Mapping[str, Tensor]:
        """The importance map (B, 1, h, w) in [0, 1] of a latent map."""
        if isinstance(posterior, AnchoredGaussian) and posterior.anchor.dim() == 4:
            return {"importance": posterior.anchor}
        return {}
