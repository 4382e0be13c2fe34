"""The despeckler: a residual U-Net in the logarithm of intensity, with the latent at its coarsest level."""

from typing import Unpack

from saaae.errors import UserError
from saaae.models.autoencoder import Parts
from saaae.models.unet import UNet


class Despeckler(UNet):
    """Removes speckle from amplitude images, blind to the number of looks (Zhang et al. 2018 for the residual in logs).

    Raises:
        UserError: If the likelihood does not take logarithms of intensity.
    """

    def __init__(self, **parts: Unpack[Parts]) -> None:
        activation = parts["likelihood"].activation
        if activation != "log_intensity":
            raise UserError(f"likelihood.activation={activation}: a despeckler gives logs; expected log_intensity")
        super().__init__(**parts)
