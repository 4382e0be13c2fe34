"""Likelihoods p(x|z): the link from the decoder's real values to a mean image, and the nll in nats per image."""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, binary_cross_entropy_with_logits

from saaae.objectives.processes import mean_over_processes
from saaae.ranges import Activation, NonNegativeFloat, PositiveFloat, Scale

ACTIVATIONS = {
    "sigmoid": torch.sigmoid,
    "tanh": lambda raw: 0.5 * (torch.tanh(raw) + 1.0),
    "relu": torch.relu,
    "none": lambda raw: raw,
    "log_intensity": lambda raw: torch.exp(0.5 * raw.clamp(-30.0, 3.0)),
}
"""From the decoder's values to pixels, on the scale where images are [0, 1]: tanh's [-1, 1] is brought there."""
DARKEST = 1e-4
"""`raw` keeps images this far from 0, and from 1 where the activation is bounded above."""
INVERSES = {
    "sigmoid": lambda image: torch.logit(image, DARKEST),
    "tanh": lambda image: 0.5 * torch.logit(image, DARKEST),
    "relu": lambda image: image,
    "none": lambda image: image,
    "log_intensity": lambda image: 2.0 * torch.log(image.clamp_min(DARKEST)),
}
"""From pixels back to values of the decoder."""


class Likelihood(nn.Module):
    """Base.

    Args:
        activation: Output activation: `sigmoid` and `tanh` keep to [0, 1]; `relu`, `none` and `log_intensity` (the
            root of the exponential of what the decoder gives) may leave it, and the mean image is clipped.
    """

    discrete: bool
    """Whether nll counts whole pixel values; a density's bits per dimension are those of 8-bit pixels."""
    of_noisy_images = False
    """Whether the density describes noise around the mean image, so that a clean target makes no sense."""

    def __init__(self, *, activation: Activation) -> None:
        super().__init__()
        self.activation, self.activate = activation, ACTIVATIONS[activation]

    def output(self, raw: Tensor) -> Tensor:
        """Image (B, C, H, W), float32, as the nll compares it."""
        return self.activate(raw.float())

    def mean(self, raw: Tensor) -> Tensor:
        """Mean image (B, C, H, W) in [0, 1], float32, of the decoder's values."""
        return self.output(raw).clamp(0.0, 1.0)

    def raw(self, image: Tensor) -> Tensor:
        """Decoder's values (B, C, H, W) whose output is an image, for a model that computes the image itself."""
        return INVERSES[self.activation](image)

    def nll(self, raw: Tensor, target: Tensor) -> Tensor:
        """Negative log likelihood (B,) of `target` (B, C, H, W) in [0, 1], in nats per image (sum over pixels)."""
        raise NotImplementedError


class Bernoulli(Likelihood):
    """Binary cross-entropy, from logits: the activation is a sigmoid and cannot be another.

    On gray images it is the customary training loss but not a likelihood: even perfect reconstruction costs the entropy
    of the gray pixels (45.5 nats per MNIST digit).

    Args:
        activation: `sigmoid`.
    """

    discrete = True

    def __init__(self, *, activation: Literal["sigmoid"]) -> None:
        super().__init__(activation=activation)

    def nll(self, raw: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy (B,) in nats per image."""
        return binary_cross_entropy_with_logits(raw.float(), target, reduction="none").flatten(1).sum(1)


MOMENTUM = 0.01
"""Weight of the newest batch in the running average of optimal scales."""


class ScaledLikelihood(Likelihood):
    """Base of the densities with one scale for all pixels, given, learned or optimal.

    Args:
        scale: A number, `learned` (one trained parameter that starts at the optimum of the first batch), or `optimal`:
            the maximum-likelihood scale of the batch in closed form (Rybkin et al. 2021, eq. 8). Evaluation uses the
            running average of the training batches, so that no metric depends on the batch. `per_image`: the same of
            each image, in evaluation too: half the pixels times the log of its error, so the loss follows the mean
            PSNR. The image itself chooses the scale, so this is not a likelihood.
        activation: Output activation.
    """

    discrete = False
    log_scale: Tensor
    num_batches: Tensor

    def __init__(self, *, scale: Scale, activation: Activation) -> None:
        super().__init__(activation=activation)
        self.scale = scale
        self.waits_for_data = scale == "learned"
        log_scale = torch.tensor(0.0 if isinstance(scale, str) else math.log(scale))
        if scale == "learned":
            self.log_scale = nn.Parameter(log_scale)
        else:
            self.register_buffer("log_scale", log_scale)
        self.register_buffer("num_batches", torch.tensor(0))

    def distance(self, difference: Tensor) -> Tensor:
        """How the density measures differences, elementwise."""
        raise NotImplementedError

    def best_log_scale(self, mean_distance: Tensor) -> Tensor:
        """Log of the scale under which distances of such means, of any shape, are most likely."""
        raise NotImplementedError

    def log_density(self, distance: Tensor, log_scale: Tensor) -> Tensor:
        """Log density (B,) of distances (B, N), their sum over N, under one scale or (B,)."""
        raise NotImplementedError

    def nll(self, raw: Tensor, target: Tensor) -> Tensor:
        """Minus the log density (B,) in nats per image; negative once the scale is small."""
        distance = self.distance(self.output(raw) - target).flatten(1)
        return -self.log_density(distance, self._log_scale_of(distance))

    def _log_scale_of(self, distance: Tensor) -> Tensor:
        if self.scale == "per_image":
            return self.best_log_scale(distance.mean(1))
        if self.training and self.waits_for_data:
            self._start_from_data(distance)
        if self.training and self.scale == "optimal":
            return self._batch_log_scale(distance)
        return self.log_scale.float()

    def _start_from_data(self, distance: Tensor) -> None:
        self.waits_for_data = False  # once per process: reading from the device at every step would stall it
        if self.num_batches == 0:
            self.num_batches += 1
            with torch.no_grad():
                self.log_scale.copy_(self.best_log_scale(mean_over_processes(distance.mean())).nan_to_num())

    def _batch_log_scale(self, distance: Tensor) -> Tensor:
        mean = distance.mean()
        whole = mean_over_processes(mean)
        # The loss is flat at the scale that is best for the whole batch; at a share's distance from it, it is not.
        log_scale = self.best_log_scale(mean if whole is mean else whole.detach())
        with torch.no_grad():
            self.num_batches += 1
            weight = (1.0 / self.num_batches).clamp(min=MOMENTUM)  # a plain average at first
            newest = torch.where(log_scale.isfinite(), log_scale, self.log_scale)  # not of a non-finite batch
            self.log_scale.lerp_(newest, weight)
        return log_scale


class Gaussian(ScaledLikelihood):
    """N(mean, sigma^2) per pixel.

    Args:
        sigma: A number (sigma^2 = 1/2 makes the nll the summed squared error plus a constant), `learned`, `optimal`
            or `per_image`.
        activation: Output activation.
    """

    def __init__(self, *, sigma: Scale, activation: Activation) -> None:
        super().__init__(scale=sigma, activation=activation)

    def distance(self, difference: Tensor) -> Tensor:
        return difference**2

    def best_log_scale(self, mean_distance: Tensor) -> Tensor:
        """The root of the mean squared error."""
        return 0.5 * torch.log(mean_distance + 1e-6)

    def log_density(self, distance: Tensor, log_scale: Tensor) -> Tensor:
        constant = distance.shape[1] * (log_scale + 0.5 * math.log(2 * math.pi))
        return -(0.5 * distance.sum(1) * torch.exp(-2.0 * log_scale) + constant)


class Laplace(ScaledLikelihood):
    """Laplace density per pixel: absolute errors, less moved by outliers than squared ones.

    Args:
        scale: A number, `learned`, `optimal` (the mean absolute error) or `per_image`.
        activation: Output activation.
    """

    def distance(self, difference: Tensor) -> Tensor:
        return difference.abs()

    def best_log_scale(self, mean_distance: Tensor) -> Tensor:
        return torch.log(mean_distance + 1e-3)

    def log_density(self, distance: Tensor, log_scale: Tensor) -> Tensor:
        constant = distance.shape[1] * (log_scale + math.log(2.0))
        return -(distance.sum(1) * torch.exp(-log_scale) + constant)


class SpectralGaussian(Gaussian):
    """Gaussian plus a penalty on differing Fourier magnitudes: sharp textures are not averaged away. Not a likelihood.

    The transform is orthonormal, so the penalty is on the scale of the squared error whatever the image size.

    Args:
        sigma: As in `Gaussian`.
        activation: Output activation.
        weight: Of the summed squared difference of magnitudes.
        logarithm: Compare log(1 + magnitude), which weighs weak frequencies up.
    """

    def __init__(
        self,
        *,
        sigma: Scale,
        activation: Activation,
        weight: NonNegativeFloat,
        logarithm: bool,
    ) -> None:
        super().__init__(sigma=sigma, activation=activation)
        self.weight, self.logarithm = weight, logarithm

    def nll(self, raw: Tensor, target: Tensor) -> Tensor:
        """Gaussian nll plus the weighted penalty (B,)."""
        ours, theirs = self._magnitude(self.output(raw)), self._magnitude(target)
        return super().nll(raw, target) + self.weight * ((ours - theirs) ** 2).flatten(1).sum(1)

    def _magnitude(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.fft2(x, norm="ortho")
        magnitude = torch.sqrt(spectrum.real**2 + spectrum.imag**2 + 1e-12)  # abs() has no gradient at 0
        return torch.log1p(magnitude) if self.logarithm else magnitude


class SpeckleLikelihood(Likelihood):
    """Amplitudes under L-look speckle: intensity y^2 ~ Gamma(L, mean^2 / L), the mean image being the clean amplitude.

    With x and v the logs of clean and observed intensity the nll is L (x - v + exp(v - x)) plus what does not depend on
    x: unlike a squared error of logarithms it is not biased by psi(L) - ln L.

    Args:
        looks: Number of looks L of the images.
        activation: `sigmoid` or `log_intensity`.
        floor: Smallest amplitude of the mean image, and what darker observed ones count as: black has no logarithm.
    """

    discrete = False
    of_noisy_images = True

    def __init__(
        self, *, looks: PositiveFloat, activation: Literal["sigmoid", "log_intensity"], floor: float = 1 / 255
    ) -> None:
        super().__init__(activation=activation)
        self.looks, self.floor = looks, floor

    def output(self, raw: Tensor) -> Tensor:
        """Clean amplitude, at least the floor."""
        return self.floor + (1.0 - self.floor) * super().output(raw)

    def nll(self, raw: Tensor, target: Tensor) -> Tensor:
        """Minus the log density of the amplitudes (B,) in nats per image."""
        log_amplitude = torch.log(target.clamp_min(self.floor))
        ratio = 2.0 * (log_amplitude - torch.log(self.output(raw)))  # v - x
        constant = math.lgamma(self.looks) - self.looks * math.log(self.looks) - math.log(2.0)
        return (self.looks * (torch.exp(ratio) - ratio) + constant + log_amplitude).flatten(1).sum(1)


class SSIMGaussian(Gaussian):
    """Gaussian plus a penalty on missing structural similarity (Wang et al. 2004). Not a likelihood.

    Deviation: the local moments are means over 7x7 windows, not Gaussian ones, for speed.

    Args:
        sigma: As in `Gaussian`.
        activation: Output activation.
        weight: Of 1 - SSIM, summed over pixels.
    """

    def __init__(
        self,
        *,
        sigma: Scale,
        activation: Activation,
        weight: NonNegativeFloat,
    ) -> None:
        super().__init__(sigma=sigma, activation=activation)
        self.weight = weight

    def nll(self, raw: Tensor, target: Tensor) -> Tensor:
        """Gaussian nll plus the weighted penalty (B,)."""
        missing = 1.0 - self._ssim(self.output(raw), target)
        return super().nll(raw, target) + self.weight * missing.flatten(1).mean(1) * target[0].numel()

    @staticmethod
    def _ssim(x: Tensor, y: Tensor, c1: float = 0.01**2, c2: float = 0.03**2) -> Tensor:
        mean_x, mean_y, xx, yy, xy = (avg_pool2d(t, 7, 1) for t in (x, y, x * x, y * y, x * y))
        similar_mean = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
        spread = (xx - mean_x**2) + (yy - mean_y**2)
        return similar_mean * (2 * (xy - mean_x * mean_y) + c2) / (spread + c2)
