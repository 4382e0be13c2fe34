"""Plain convolutional encoder and decoder, general enough for the published 28-pixel, SAR and fabric pairs."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from saaae.errors import UserError
from saaae.layers.placement import Attention, Place
from saaae.layers.residual import group_norm
from saaae.networks.resnet import num_stages
from saaae.ranges import Fraction, PositiveInt, Widths


class ConvEncoder(nn.Module):
    """Strided 3x3 convolutions with ReLU, then optionally one hidden linear layer that also takes a condition.

    Args:
        image_shape: (C, H, W) of the images.
        widths: Channels of each halving; an image that cannot be halved as often uses the first ones only.
        norm: Group normalisation after each convolution.
        dropout: Share of feature maps dropped in training after each stage.
        hidden: Size of the hidden linear layer; None for none, the features then stay a map.
        attention: Layers of attention at chosen places.
        condition_size: Size of the condition vector; 0 for none.

    Raises:
        UserError: If there is a condition and no hidden layer to take it.
    """

    def __init__(
        self,
        *,
        image_shape: tuple[int, int, int],
        widths: Widths,
        norm: bool,
        dropout: Fraction,
        hidden: PositiveInt | None,
        attention: Attention,
        condition_size: int = 0,
    ) -> None:
        super().__init__()
        channels, size, _ = image_shape
        widths = widths[: num_stages(size, len(widths))]
        stages: list[nn.Module] = []
        for before, after in zip([channels, *widths], widths, strict=False):
            size //= 2
            place: Place = "bottleneck" if len(stages) == len(widths) - 1 else "encoder"
            stage = [
                nn.Conv2d(before, after, 3, stride=2, padding=1),
                *([group_norm(after)] if norm else []),
                nn.ReLU(),
            ]
            stage += [nn.Dropout2d(dropout)] if dropout else []
            stages.append(nn.Sequential(*stage, *attention.at(place, after, size)))
        self.stages = nn.Sequential(*stages)
        self.output_shape: tuple[int, ...] = (widths[-1], size, size)
        if condition_size and not hidden:
            raise UserError(
                "model.encoder.hidden=null: a condition needs the hidden layer; expected a positive integer"
            )
        self.hidden = nn.Linear(math.prod(self.output_shape) + condition_size, hidden) if hidden else None
        if hidden:
            self.output_shape = (hidden, 1, 1)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Images (B, C, H, W), and a condition (B, condition_size), to features (B, *output_shape)."""
        features = self.stages(x)
        if self.hidden is None:
            return features
        flat = [features.flatten(1)] + ([] if condition is None else [condition.to(features.dtype)])
        return torch.relu(self.hidden(torch.cat(flat, 1)))[..., None, None]


def upsampling(before: int, after: int, stride: int) -> nn.ConvTranspose2d:
    """A transposed convolution that makes a map `stride` times larger: 3x3 for 1 and 2, else without overlap."""
    if stride > 2:
        return nn.ConvTranspose2d(before, after, stride, stride=stride)
    return nn.ConvTranspose2d(before, after, 3, stride=stride, padding=1, output_padding=stride - 1)


class ConvDecoder(nn.Module):
    """A linear map for a latent vector, then transposed convolutions with ReLU; the last has no activation.

    Args:
        latent_shape: (D,) for a latent vector or (C, H, W) for a latent map.
        image_shape: (C, H, W) of the images.
        start: Channels that a latent vector is mapped to; unused for a latent map.
        start_relu: Whether a ReLU follows that map.
        widths: Channels after each transposed convolution but the last, which gives the image.
        strides: How much each of them, the last included, enlarges the map.
        norm: Group normalisation before each ReLU between the convolutions.
        attention: Layers of attention at chosen places.
        condition_size: Size of the condition vector that is appended to a latent vector; 0 for none.

    Raises:
        UserError: If the strides do not lead from the latent map to the image, or a map is to take a condition.
    """

    def __init__(
        self,
        *,
        latent_shape: Sequence[int],
        image_shape: tuple[int, int, int],
        start: PositiveInt,
        start_relu: bool,
        widths: Widths,
        strides: Widths,
        norm: bool,
        attention: Attention,
        condition_size: int = 0,
    ) -> None:
        super().__init__()
        channels, size, _ = image_shape
        if len(latent_shape) == 3 and condition_size:
            raise UserError("model.latent_channels: a condition needs a latent vector; expected model.latent_dim")
        scale = math.prod(strides)
        if len(strides) != len(widths) + 1:
            raise UserError(f"model.decoder.strides={strides}: expected {len(widths) + 1}, one more than widths")
        if size % scale or (len(latent_shape) == 3 and latent_shape[1] * scale != size):
            given = f"a latent map of side {latent_shape[1]}" if len(latent_shape) == 3 else "its start"
            raise UserError(
                f"data.image_size={size}: model.decoder.strides enlarge {given} {scale} times; expected a multiple of "
                f"{scale}" + (", and as many halvings in model.encoder.widths" if len(latent_shape) == 3 else "")
            )
        side, before = size // scale, start if len(latent_shape) == 1 else latent_shape[0]
        self.start: nn.Module = nn.Identity()
        if len(latent_shape) == 1:
            linear = nn.Linear(latent_shape[0] + condition_size, start * side**2)
            self.start = nn.Sequential(
                linear, *([nn.ReLU()] if start_relu else []), nn.Unflatten(1, (start, side, side))
            )
        stages: list[nn.Module] = []
        for after, stride in zip(widths, strides, strict=False):
            side *= stride
            stage = [upsampling(before, after, stride), *([group_norm(after)] if norm else []), nn.ReLU()]
            stages.append(nn.Sequential(*stage, *attention.at("decoder", after, side)))
            before = after
        self.stages = nn.Sequential(*stages, upsampling(before, channels, strides[-1]))

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Latents (B, *latent_shape), and a condition (B, condition_size), to real-valued images (B, C, H, W)."""
        return self.stages(self.start(z if condition is None else torch.cat([z, condition.to(z.dtype)], 1)))


class SkipPath(nn.Module):
    """Skip path of a restorer, added to the decoder's logits: the corrupted image and a few convolutions of it.

    Args:
        channels: Channels of the images.
        width: Channels of the hidden convolutions.
        depth: Number of hidden convolutions.
    """

    def __init__(self, *, channels: PositiveInt, width: PositiveInt, depth: PositiveInt) -> None:
        super().__init__()
        hidden = [
            module
            for before in [channels] + [width] * (depth - 1)
            for module in (nn.Conv2d(before, width, 5, padding=2), nn.ReLU())
        ]
        self.body = nn.Sequential(*hidden, nn.Conv2d(width, channels, 5, padding=2))

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] to logits of the same shape."""
        return torch.logit(x.clamp(0.01, 0.99)) + self.body(x)
