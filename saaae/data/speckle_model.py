"""The law of simulated speckle."""

import math

import torch
from torch import Tensor

from saaae.errors import UserError
from saaae.ranges import Correlation, Looks, choices_of
from saaae.rng import RandomSource


def gamma_speckle(like: Tensor, looks: float, rng: RandomSource) -> Tensor:
    """White intensity speckle S ~ Gamma(shape L, scale 1/L): mean 1, variance 1/L (Goodman 1976), shaped like `like`.

    The whole part of L is minus the log of a product of uniforms, several times faster than a general Gamma sampler.
    """
    whole, fraction = int(looks), looks - int(looks)
    total = torch.zeros_like(like, dtype=torch.float32)
    for _ in range(whole):
        total -= torch.log(rng.uniform(like))
    if fraction > 0:
        total += _small_gamma(like, fraction, rng)
    return total / looks


def _small_gamma(like: Tensor, shape: float, rng: RandomSource) -> Tensor:
    """Gamma(shape, 1) for a shape below 1 (Marsaglia and Tsang 2000, sections 4 and 6).

    Rounds are fixed, so that every pixel draws equally often: fewer than one in 10^10 keeps a rejected value.
    """
    d = shape + 1.0 - 1.0 / 3.0
    c = 1.0 / math.sqrt(9.0 * d)
    result = torch.full_like(like, d, dtype=torch.float32)
    waiting = torch.ones_like(like, dtype=torch.bool)
    for _ in range(8):
        x = rng.normal(like)
        v = (1.0 + c * x).clamp_min(1e-12) ** 3
        accepted = torch.log(rng.uniform(like)) < 0.5 * x**2 + d - d * v + d * torch.log(v)
        result = torch.where(waiting & accepted, d * v, result)
        waiting &= ~accepted
    return result * rng.uniform(like) ** (1.0 / shape)


def correlated_speckle(like: Tensor, looks: float, correlation: float, rng: RandomSource) -> Tensor:
    """Intensity speckle whose neighbours correlate: the mean of L |z|^2, z a band-limited complex Gaussian field.

    The field's autocorrelation is Gaussian in the distance, so the intensity's falls as correlation**(distance**2)
    (it is the squared modulus of the field's); periodic at the border. Its law per pixel is Gamma as ever.

    Args:
        like: Template (B, C, H, W).
        looks: Number of looks, a multiple of 0.5: half a look is the square of the real part alone.
        correlation: Correlation of the intensities of horizontal and vertical neighbours, in [0, 1).
        rng: Source of random numbers.
    """
    height, width = like.shape[-2:]
    amplitude = torch.sqrt(_power(height, correlation, like.device)[:, None] * _power(width, correlation, like.device))
    total = torch.zeros_like(like, dtype=torch.float32)
    for left in torch.arange(looks, 0, -1).tolist():
        field = torch.complex(rng.normal(like), rng.normal(like)) * math.sqrt(0.5)
        field = torch.fft.ifft2(torch.fft.fft2(field) * amplitude)
        total += field.abs() ** 2 if left >= 1 else field.real**2
    return total / looks


def _power(size: int, correlation: float, device: torch.device) -> Tensor:
    """Power spectrum (size,) of a periodic field with the autocorrelation sqrt(correlation)**(distance**2)."""
    distance = torch.arange(size, device=device)
    distance = torch.minimum(distance, size - distance)
    power = torch.fft.fft(math.sqrt(correlation) ** (distance.double() ** 2)).real.clamp_min(0.0)
    return (power / power.mean()).float()  # a long correlation on a small field has lost some to the clamp


def mixed_speckle(like: Tensor, looks: list[float], correlation: list[float], rng: RandomSource) -> Tensor:
    """Intensity speckle of which each image draws a number of looks and, independently, a correlation.

    The law of each image is that of `correlated_speckle`, white for the correlation 0, whose spectrum is flat. All
    images share the fields of the largest number of looks; an image with fewer leaves the last ones out. White
    noise stays white under a Fourier transform, so the fields are drawn as spectra.

    Args:
        like: Template (B, C, H, W).
        looks: Numbers of looks to draw from, multiples of 0.5.
        correlation: Correlations of neighbours' intensities to draw from, in [0, 1).
        rng: Source of random numbers.
    """
    height, width = like.shape[-2:]
    power = [[_power(size, value, like.device) for value in correlation] for size in (height, width)]
    amplitudes = torch.sqrt(torch.stack(power[0])[:, :, None] * torch.stack(power[1])[:, None, :])
    image_looks = torch.tensor(looks, device=like.device)[_draw(like, len(looks), rng)].view(-1, 1, 1, 1)
    amplitude = amplitudes[_draw(like, len(correlation), rng)][:, None]
    total = torch.zeros_like(like, dtype=torch.float32)
    for before in range(math.ceil(max(looks))):
        field = torch.complex(rng.normal(like), rng.normal(like)) * math.sqrt(0.5)
        field = torch.fft.ifft2(field * amplitude, norm="ortho")
        left = image_looks - before
        total += torch.where(left >= 1, field.real**2 + field.imag**2, field.real**2) * (left > 0)
    return total / image_looks


def _draw(like: Tensor, count: int, rng: RandomSource) -> Tensor:
    """For each image of (B, C, H, W) one of 0 ... count - 1, (B,), int64, all equally likely."""
    return torch.ceil(rng.uniform(like[:, :1, :1, :1]) * count).long().flatten() - 1


def check_looks(owner: str, looks: Looks, correlation: Correlation) -> None:
    """Refuses looks that correlated speckle cannot have.

    Raises:
        UserError: Naming `owner`.looks.
    """
    if correlation != 0 and any(choice % 0.5 for choice in choices_of(looks)):
        raise UserError(
            f"{owner}.looks={looks}: correlated speckle ({owner}.correlation={correlation}) needs multiples of 0.5"
        )


def speckle_amplitude(amplitude: Tensor, looks: Looks, correlation: Correlation, rng: RandomSource) -> Tensor:
    """Amplitude images under speckle: the root of intensity (amplitude squared) times S; not clipped.

    Args:
        amplitude: Clean images (B, C, H, W).
        looks: Number of looks, a multiple of 0.5 where the speckle is correlated; of several each image draws one.
        correlation: Correlation of neighbouring intensities; 0 is white. Of a list each image draws one.
        rng: Source of random numbers.
    """
    choices = choices_of(looks)
    if isinstance(correlation, list):
        return amplitude * torch.sqrt(mixed_speckle(amplitude, choices, correlation, rng))
    if len(choices) == 1:
        return amplitude * torch.sqrt(_speckle(amplitude, choices[0], correlation, rng))
    chosen = _draw(amplitude, len(choices), rng).view(-1, 1, 1, 1)
    speckle = torch.zeros_like(amplitude, dtype=torch.float32)
    for number, choice in enumerate(choices):
        speckle = torch.where(chosen == number, _speckle(amplitude, choice, correlation, rng), speckle)
    return amplitude * torch.sqrt(speckle)


def _speckle(like: Tensor, looks: float, correlation: float, rng: RandomSource) -> Tensor:
    if correlation == 0:
        return gamma_speckle(like, looks, rng)
    return correlated_speckle(like, looks, correlation, rng)
