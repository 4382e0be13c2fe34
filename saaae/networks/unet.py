"""The residual U-Net of speckled images, in the logarithm of intensity."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from saaae.errors import UserError
from saaae.layers.placement import Attention
from saaae.layers.residual import PlainResidualBlock
from saaae.ranges import PositiveInt, Widths

DARKEST = 1e-4
"""Smallest intensity whose logarithm is taken: an amplitude of 0.01."""


def log_planes(x: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Logarithms of the intensity of amplitudes (B, C, H, W), and of its mean over windows of odd side `window`.

    The mean of intensities is not biased by speckle, unlike that of logarithms, so the number of looks need not be
    known.
    """
    intensity = x.float() ** 2
    mean = avg_pool2d(intensity, window, 1, padding=window // 2, count_include_pad=False)
    return torch.log(intensity.clamp_min(DARKEST)), torch.log(mean.clamp_min(DARKEST))


class LogUNetEncoder(nn.Module):
    """The contracting half: log intensity, log local mean and amplitude at half the side, then halvings.

    Args:
        image_shape: (C, H, W) of the images.
        widths: Channels of each level: 1/2 of the image's side, 1/4, ...
        blocks: Residual blocks of each level.
        window: Side of the local mean, odd.
        attention: Layers of attention at chosen places.

    Raises:
        UserError: If the side of the image cannot be halved once per level, the window is even, or the number of blocks
            is not given for each level.
    """

    def __init__(
        self,
        *,
        image_shape: tuple[int, int, int],
        widths: Widths,
        blocks: list[PositiveInt],
        window: PositiveInt,
        attention: Attention,
    ) -> None:
        super().__init__()
        channels, size, _ = image_shape
        scale = 2 ** len(widths)
        if size % scale:
            raise UserError(
                f"data.image_size={size}: {len(widths)} model.encoder.widths halve it; expected a multiple of {scale}"
            )
        if len(blocks) != len(widths):
            raise UserError(f"model.encoder.blocks={blocks}: expected {len(widths)} numbers, as model.encoder.widths")
        if window % 2 == 0:
            raise UserError(f"model.encoder.window={window}: expected an odd number")
        self.window = window
        self.start = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12 * channels, widths[0], 3, padding=1))
        self.levels = nn.ModuleList(
            nn.Sequential(
                *([] if number == 0 else [nn.Conv2d(widths[number - 1], width, 2, stride=2)]),
                *(PlainResidualBlock(width) for _ in range(blocks[number])),
                *attention.at("bottleneck" if number == len(widths) - 1 else "encoder", width, size >> (number + 1)),
            )
            for number, width in enumerate(widths)
        )
        self.output_shape = (widths[-1], size // scale, size // scale)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Amplitudes (B, C, H, W) to the log local mean (B, C, H, W) and each level's features, the finest first."""
        log_intensity, log_mean = log_planes(x, self.window)
        features = [self.start(torch.cat([log_intensity, log_mean, x], 1).to(x.dtype))]
        for level in self.levels:
            features.append(level(features[-1]))
        return (log_mean, *features[1:])


class LogUNetDecoder(nn.Module):
    """The expanding half: upsamples a latent and adds the features of each finer level; starts at the local mean.

    Args:
        latent_shape: (C, H, W) of the latent map.
        image_shape: (C, H, W) of the images.
        widths: Channels of the encoder's levels.
        blocks: Residual blocks of each of them; the coarsest has none here.
        attention: Layers of attention at chosen places.

    Raises:
        UserError: If the latent is a vector.
    """

    def __init__(
        self,
        *,
        latent_shape: Sequence[int],
        image_shape: tuple[int, int, int],
        widths: Widths,
        blocks: list[PositiveInt],
        attention: Attention,
    ) -> None:
        super().__init__()
        if len(latent_shape) != 3:
            raise UserError("model.latent_dim: a despeckler has a latent map; expected model.latent_channels")
        channels, size, _ = image_shape
        self.start = nn.Conv2d(latent_shape[0], widths[-1], 1)
        self.up = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, 4 * after, 1), nn.PixelShuffle(2))
            for before, after in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.levels = nn.ModuleList(
            nn.Sequential(
                *(PlainResidualBlock(width) for _ in range(count)), *attention.at("decoder", width, size >> (level + 1))
            )
            for level, width, count in reversed([*zip(range(len(widths) - 1), widths, blocks, strict=False)])
        )
        last = nn.Conv2d(widths[0], 4 * channels, 3, padding=1)
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        self.last = nn.Sequential(last, nn.PixelShuffle(2))

    def forward(self, z: Tensor, seen: Sequence[Tensor]) -> Tensor:
        """Latents (B, *latent_shape) and the encoder's features to logarithms of intensity (B, C, H, W), float32.

        A fresh network gives the local mean: it starts as an unbiased boxcar filter.
        """
        log_mean, *finer = seen[:-1]
        x = self.start(z)
        for up, level, features in zip(self.up, self.levels, reversed(finer), strict=True):
            x = level(up(x) + features)
        return log_mean + self.last(x).float()
