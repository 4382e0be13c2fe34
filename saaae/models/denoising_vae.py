"""The denoising VAE, with an optional skip path around the latent."""

from collections.abc import Callable
from typing import Unpack

from torch import Tensor, nn

from saaae.errors import UserError
from saaae.models.autoencoder import ImageAutoencoder, Parts
from saaae.types import Batch


class DenoisingVAE(ImageAutoencoder):
    """A VAE whose input is corrupted and whose target is not (Im et al. 2017), with an optional skip path.

    With a skip path the decoder's logits are added to those of a small network on the corrupted image: the latent then
    holds only what that network cannot restore, and may collapse.

    Args:
        skip: Makes the network beside the latent, of `channels`; None for the pure bottleneck.
        **parts: What it is made of.

    Raises:
        UserError: If a skip path adds logits and the likelihood takes something else.
    """

    def __init__(self, *, skip: Callable[..., nn.Module] | None, **parts: Unpack[Parts]) -> None:
        activation = parts["likelihood"].activation
        if skip and activation != "sigmoid":
            raise UserError(f"likelihood.activation={activation}: a skip path adds logits; expected sigmoid")
        super().__init__(**parts)
        self.skip = skip(channels=parts["image_channels"]) if skip else None
        self.generates = skip is None

    @property
    def networks(self) -> list[nn.Module]:
        return [*super().networks, *([] if self.skip is None else [self.skip])]

    def decoder_output(self, z: Tensor, batch: Batch) -> Tensor:
        """The decoder's values, plus the skip path's."""
        raw = self.decoder(z)
        return raw if self.skip is None else raw + self.skip(batch.input)
