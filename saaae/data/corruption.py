"""Corruptions of a batch, on its device: the model gets the corrupted image, the target stays clean.

Each is a module over images (B, C, H, W) in [0, 1] that draws from a `RandomSource`: the run's own state in training,
(seed, image index) in evaluation. The result is clipped to [0, 1].
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, pad

from saaae.data.speckle_model import check_looks, speckle_amplitude
from saaae.ranges import Correlation, Fraction, Looks, NonNegativeFloat, Peak, Percent, PositiveFloat, PositiveInt
from saaae.rng import RandomSource


def per_image(x: Tensor) -> Tensor:
    """One number per image (B, 1, 1, 1), for draws that a whole image shares."""
    return x[:, :1, :1, :1]


class Corruption(nn.Module):
    """Base: clips what `corrupt` makes."""

    makes_defects = False
    """Whether the changes are defects to be found: real ones are then looked for in images without them."""

    def corrupt(self, x: Tensor, rng: RandomSource) -> Tensor:
        """Corrupted images (B, C, H, W), not clipped."""
        raise NotImplementedError

    def forward(self, x: Tensor, rng: RandomSource) -> Tensor:
        """Corrupted images (B, C, H, W) in [0, 1]."""
        return self.corrupt(x, rng).clamp(0.0, 1.0)


class Identity(Corruption):
    """No corruption: the input is the target itself."""

    def corrupt(self, x: Tensor, rng: RandomSource) -> Tensor:
        return x


class DownUp(Corruption):
    """Blur by bilinear down- and upsampling (28 -> 14 -> 28 in the denoising VAE).

    Args:
        factor: How much smaller the image becomes in between.
    """

    def __init__(self, *, factor: PositiveInt) -> None:
        super().__init__()
        self.factor = factor

    def corrupt(self, x: Tensor, rng: RandomSource) -> Tensor:
        """Bilinear down, without antialiasing, and up."""
        side = [max(1, length // self.factor) for length in x.shape[-2:]]
        small = interpolate(x, size=side, mode="bilinear", align_corners=False)
        return interpolate(small, size=x.shape[-2:], mode="bilinear", align_corners=False)


class GaussianBlur(Corruption):
    """Convolution with a Gaussian, reflected at the border.

    Args:
        sigma: Standard deviation in pixels.
    """

    def __init__(self, *, sigma: PositiveFloat) -> None:
        super().__init__()
        self.sigma, self.radius = sigma, math.ceil(3 * sigma)

    def corrupt(self, x: Tensor, rng: RandomSource) -> Tensor:
        channels, radius = x.shape[1], min(self.radius, min(x.shape[-2:]) - 1)  # no more can be reflected
        offsets = torch.arange(-radius, radius + 1, device=x.device)
        taps = torch.softmax(-0.5 * (offsets / self.sigma) ** 2, 0)
        x = pad(x, [radius] * 4, mode="reflect")
        x = conv2d(x, taps.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
        return conv2d(x, taps.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)


class GaussianNoise(Corruption):
    """Additive white Gaussian noise.

    Args:
        std: Its standard deviation, of a range of 1.
    """

    def __init__(self, *, std: NonNegativeFloat) -> None:
        super().__init__()
        self.std = std

    def corrupt(self, x: Tensor, rng: RandomSource) -> Tensor:
        return x + self.std * rng.normal(x)


class PoissonNoise(Corruption):
    """Photon noise: Poisson counts with mean `peak * x`, divided by `peak`.

    Args:
        peak: Mean count of a white pixel, at most 500: the distribution function starts at exp(-peak).
    """

    def __init__(self, *, peak: Peak) -> None:
        super().__init__()
        self.peak = peak

    def corrupt(self, x: Tensor, rng: RandomSource) -> Tensor:
        """Counts by inversion of the distribution function: one uniform number per pixel from any source of noise."""
        rate = (self.peak * x).double()
        u = rng.uniform(x).double()
        counts, probability = torch.zeros_like(rate), torch.exp(-rate)
        cumulative = probability.clone()
        for k in range(1, math.ceil(self.peak + 8 * math.sqrt(self.peak) + 8)):
            counts += u > cumulative
            probability = probability * rate / k
            cumulative += probability
        return (counts / self.peak).float()


class SaltAndPepper(Corruption):
    """Some pixels become black or white.

    Args:
        amount: Share of pixels, half of them white.
    """

    def __init__(self, *, amount: Fraction) -> None:
        super().__init__()
        self.amount = amount

    def corrupt(self, x: Tensor, rng: RandomSource) -> Tensor:
        u = rng.uniform(x[:, :1])  # a pixel in all of its channels
        x = torch.where(u <= self.amount / 2, 0.0, x)
        return torch.where(u > 1 - self.amount / 2, 1.0, x)


class Speckle(Corruption):
    """Multiplicative speckle on amplitude images.

    Args:
        looks: Number of looks, a multiple of 0.5 where the speckle is correlated; of a list each image draws one.
        correlation: Correlation of neighbouring pixels' intensities; 0 is white. Of a list each image draws one.
    """

    def __init__(self, *, looks: Looks, correlation: Correlation) -> None:
        super().__init__()
        check_looks("corruption", looks, correlation)
        self.looks, self.correlation = looks, correlation

    def corrupt(self, x: Tensor, rng: RandomSource) -> Tensor:
        """x times the root of Gamma noise."""
        return speckle_amplitude(x, self.looks, self.correlation, rng)


class Occlusion(Corruption):
    """A square of each image becomes black.

    Args:
        size: Side of the square as a share of the image's.
    """

    def __init__(self, *, size: Fraction) -> None:
        super().__init__()
        self.size = size

    def corrupt(self, x: Tensor, rng: RandomSource) -> Tensor:
        """Blanks a square at a random place."""
        height, width = x.shape[-2:]
        side_y, side_x = round(self.size * height), round(self.size * width)
        top = rng.uniform(per_image(x)) * (height - side_y)
        left = rng.uniform(per_image(x)) * (width - side_x)
        y = torch.arange(height, device=x.device).view(1, 1, -1, 1) + 0.5
        z = torch.arange(width, device=x.device).view(1, 1, 1, -1) + 0.5
        inside = (y >= top) & (y < top + side_y) & (z >= left) & (z < left + side_x)
        return torch.where(inside, 0.0, x)


class JPEG(Corruption):
    """JPEG compression, image by image on the CPU.

    Args:
        quality: From 1 to 100.
    """

    def __init__(self, *, quality: Percent) -> None:
        super().__init__()
        self.quality = quality

    def corrupt(self, x: Tensor, rng: RandomSource) -> Tensor:
        from torchvision.io import decode_jpeg, encode_jpeg

        pixels = (x * 255).round().to("cpu", torch.uint8)
        decoded = torch.stack([decode_jpeg(encode_jpeg(image, self.quality)) for image in pixels])
        return decoded.to(x.device).float() / 255


class Composition(Corruption):
    """Several corruptions one after another, each with its own probability.

    Args:
        parts: The corruptions in order, by name.
        probability: Probability that each is applied to an image.
    """

    def __init__(self, *, parts: Mapping[str, Corruption], probability: Fraction) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(parts)
        self.probability = probability
        self.makes_defects = any(part.makes_defects for part in parts.values())

    def corrupt(self, x: Tensor, rng: RandomSource) -> Tensor:
        """Applies each part to the images that were drawn for it, and computes it only for them (for one if for none).

        An accelerator waits for their number once per part.
        """
        for part in self.parts.values():
            chosen = rng.uniform(per_image(x)) <= self.probability
            rows = chosen.flatten().nonzero().flatten()
            if not len(rows):
                rows = rows.new_zeros(1)  # later draws of an evaluation must not depend on which images were chosen
            x = x.index_copy(0, rows, torch.where(chosen[rows], part(x[rows], rng.of(rows)), x[rows]))
        return x
