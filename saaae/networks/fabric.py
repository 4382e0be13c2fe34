"""The U-Net of textures: restores an image and marks what it changed."""

from collections.abc import Sequence

from torch import Tensor, nn

from saaae.errors import UserError
from saaae.layers.placement import Attention, Place
from saaae.layers.residual import group_norm
from saaae.ranges import Widths


def convolution(before: int, after: int, side: int = 3, stride: int = 1) -> list[nn.Module]:
    """A convolution of odd side, reflected at the border, with normalisation and ReLU."""
    conv = nn.Conv2d(before, after, side, stride, padding=side // 2, padding_mode="reflect", bias=False)
    return [conv, group_norm(after), nn.ReLU()]


class TextureEncoder(nn.Module):
    """The contracting half: a 5x5 convolution to half the side, then halvings with two 3x3 convolutions each.

    Args:
        image_shape: (C, H, W) of the images.
        widths: Channels at 1/2 of the side, 1/4, ...
        attention: Layers of attention at chosen places.

    Raises:
        UserError: If the side of the image cannot be halved once per width, to at least 2 pixels.
    """

    def __init__(self, *, image_shape: tuple[int, int, int], widths: Widths, attention: Attention) -> None:
        super().__init__()
        channels, size, _ = image_shape
        scale = 2 ** len(widths)
        if size % scale or size < 2 * scale:
            raise UserError(
                f"data.image_size={size}: {len(widths)} model.encoder.widths halve it; expected a multiple of {scale}, "
                f"at least {2 * scale}"
            )
        levels = []
        for number, (before, after) in enumerate(zip([channels, *widths], widths, strict=False)):
            place: Place = "bottleneck" if number == len(widths) - 1 else "encoder"
            layers = convolution(before, after, 3 if number else 5, 2)
            layers += convolution(after, after) if number else []
            levels.append(nn.Sequential(*layers, *attention.at(place, after, size >> (number + 1))))
        self.levels = nn.ModuleList(levels)
        self.output_shape = (widths[-1], size // scale, size // scale)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images (B, C, H, W) of mean 0 and deviation 1 to the features of each level, the finest first."""
        features = []
        for level in self.levels:
            x = level(x)
            features.append(x)
        return tuple(features)


class TextureDecoder(nn.Module):
    """The expanding half: enlarges a latent and adds the features of each finer level; two outputs.

    Args:
        latent_shape: (C, H, W) of the latent map.
        image_shape: (C, H, W) of the images.
        widths: Channels of the encoder's levels.
        attention: Layers of attention at chosen places.

    Raises:
        UserError: If the latent is a vector.
    """

    def __init__(
        self, *, latent_shape: Sequence[int], image_shape: tuple[int, int, int], widths: Widths, attention: Attention
    ) -> None:
        super().__init__()
        if len(latent_shape) != 3:
            raise UserError("model.latent_dim: a fabric_unet has a latent map; expected model.latent_channels")
        channels, size, _ = image_shape
        before = [*widths[1:-1], latent_shape[0]][::-1]
        self.up = nn.ModuleList(
            nn.Sequential(nn.Conv2d(coarse, fine, 1), nn.Upsample(scale_factor=2, mode="nearest"))
            for coarse, fine in zip(before, widths[-2::-1], strict=True)
        )
        self.levels = nn.ModuleList(
            nn.Sequential(*convolution(width, width), *attention.at("decoder", width, size >> (level + 1)))
            for level, width in reversed([*enumerate(widths[:-1])])
        )
        last = widths[0] if len(widths) > 1 else latent_shape[0]
        self.last = nn.Sequential(nn.Conv2d(last, 4 * (channels + 1), 3, padding=1), nn.PixelShuffle(2))

    def forward(self, z: Tensor, seen: Sequence[Tensor]) -> Tensor:
        """Latents (B, *latent_shape) and the encoder's features to (B, C + 1, H, W).

        The first C channels are what is to be added to the standardised image, the last is the logit of a change.
        """
        x = z.to(seen[-1].dtype)
        for up, level, features in zip(self.up, self.levels, reversed(seen[:-1]), strict=True):
            x = level(up(x) + features)
        return self.last(x)
