"""The ResNet encoder and decoder of the plain VAE, for any image whose side can be halved at least twice."""

from collections.abc import Sequence

from torch import Tensor, nn

from saaae.errors import UserError
from saaae.layers.placement import Attention, Place
from saaae.layers.residual import ResidualBlock
from saaae.ranges import NonNegativeInt, Widths


def num_stages(image_size: int, limit: int) -> int:
    """How often a side of `image_size` pixels can be halved evenly, at most `limit` times (28 pixels: 2)."""
    stages = 0
    while stages < limit and image_size % 2 == 0 and image_size > 2:
        image_size //= 2
        stages += 1
    return stages


class ResNetEncoder(nn.Module):
    """Stages of a strided 3x3 convolution and residual blocks.

    Args:
        image_shape: (C, H, W) of the images.
        widths: Channels of each stage; a small image uses the first ones only.
        attention: Layers of attention at chosen places.
        blocks: Residual blocks of each stage.
    """

    def __init__(
        self, *, image_shape: tuple[int, int, int], widths: Widths, attention: Attention, blocks: NonNegativeInt
    ) -> None:
        super().__init__()
        channels, size, _ = image_shape
        widths = widths[: num_stages(size, len(widths))]
        places: list[Place] = [*(["encoder"] * (len(widths) - 1)), "bottleneck"]  # type: ignore[list-item]
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(before, after, 3, stride=2, padding=1),
                    *(ResidualBlock(after) for _ in range(blocks)),
                    nn.SiLU(),
                    *attention.at(place, after, size >> (number + 1)),
                )
                for number, (before, after, place) in enumerate(zip([channels, *widths], widths, places, strict=False))
            )
        )
        side = size >> len(widths)
        self.output_shape = (widths[-1], side, side)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to features (B, *output_shape)."""
        return self.stages(x)


class ResNetDecoder(nn.Module):
    """A linear map (1x1 convolution for a latent map), then residual blocks and strided 3x3 transposed convolutions.

    The last layer gives one value per output channel and pixel, before the link of the likelihood (a sigmoid).

    Args:
        latent_shape: (D,) for a latent vector or (C, H, W) for a latent map.
        image_shape: (C, H, W) of the images.
        widths: Channels of the encoder's stages; the decoder mirrors them.
        attention: Layers of attention at chosen places.
        blocks: Residual blocks before each transposed convolution.

    Raises:
        UserError: If the stages do not lead from the latent map to the image.
    """

    def __init__(
        self,
        *,
        latent_shape: Sequence[int],
        image_shape: tuple[int, int, int],
        widths: Widths,
        attention: Attention,
        blocks: NonNegativeInt,
    ) -> None:
        super().__init__()
        channels, size, _ = image_shape
        widths = widths[: num_stages(size, len(widths))][::-1]
        side = size >> len(widths)
        if len(latent_shape) == 3 and latent_shape[1] != side:
            raise UserError(
                f"model.decoder.widths: {len(widths)} stages need a latent map of side {side}, "
                f"the encoder gives {latent_shape[1]}; expected as many widths as model.encoder.widths"
            )
        self.start: nn.Module = (
            nn.Sequential(nn.Linear(latent_shape[0], widths[0] * side**2), nn.Unflatten(1, (widths[0], side, side)))
            if len(latent_shape) == 1
            else nn.Conv2d(latent_shape[0], widths[0], 1)
        )
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    *(ResidualBlock(before) for _ in range(blocks)),
                    nn.SiLU(),
                    nn.ConvTranspose2d(before, after, 3, stride=2, padding=1, output_padding=1),
                    *(attention.at("decoder", after, side << number) if number < len(widths) else []),
                )
                for number, (before, after) in enumerate(zip(widths, [*widths[1:], channels], strict=True), 1)
            )
        )

    def forward(self, z: Tensor) -> Tensor:
        """Latents (B, *latent_shape) to real-valued images (B, C, H, W)."""
        return self.stages(self.start(z))
