"""Types shared by all packages: batches, losses, posteriors."""

from collections.abc import Mapping
from typing import Literal, NamedTuple, Protocol

from torch import Tensor

from saaae.rng import RandomSource

Split = Literal["train", "val", "test"]
Domain = Literal["photo", "radar", "fabric"]
"""Where images come from, which says how they are judged: radar images by their speckle, fabric by its defects."""


class Batch(NamedTuple):
    """One batch of images.

    Attributes:
        input: What the encoder sees (B, C, H, W), float32 in [0, 1].
        target: What the decoder should reconstruct (B, C, H, W), float32 in [0, 1].
        indices: Position of each image in its split (B,), int64.
        rng: Source of the random numbers that the model draws for this batch.
        label: Class of each image (B,), int64, where the data set has classes; of a fabric tile 1 with a defect in it,
            0 without, -1 where it is not known.
        clean: Cleaner reference (B, C, H, W) of the same scenes where there is one: exact under simulated speckle, the
            user's own (another estimate, say) beside real images; never trained on unless it is the target.
        mask: Defective pixels (B, 1, H, W), uint8: 1 defect, 0 normal, 255 unknown; where the data set has masks.
        fabric: Code of the fabric that each image shows (B,), int64.
        defect: Code of the defect on the strip that each tile was cut from (B,), int64; 0 for a normal strip.
        window: Top, left, height and width (B, 4), int64, of a homogeneous rectangle in each radar image, laid down by
            the user; height 0 where there is none.
        skips: What a model's encoder and decoder both use of the input, computed once; empty until the model fills it.
    """

    input: Tensor
    target: Tensor
    indices: Tensor
    rng: RandomSource
    label: Tensor | None = None
    clean: Tensor | None = None
    mask: Tensor | None = None
    fabric: Tensor | None = None
    defect: Tensor | None = None
    window: Tensor | None = None
    skips: tuple[Tensor, ...] = ()


class Loss(NamedTuple):
    """The terms of one batch's objective, scalars in nats per image: `loss = nll + beta * kl` for most schedules."""

    loss: Tensor
    nll: Tensor
    kl: Tensor
    beta: float | Tensor


class Draw(NamedTuple):
    """A sample of all latent variables of a batch.

    Attributes:
        z: What the decoder takes (B, *latent_shape).
        log_prior: Log density of the latent variables without the image (B,), in nats.
        log_posterior: Their log density given the image (B,), in nats.
    """

    z: Tensor
    log_prior: Tensor
    log_posterior: Tensor


class Posterior(Protocol):
    """A distribution q(z|x) over the codes of a batch; codes are (B, D) or (B, C, H, W), results (B,) in nats."""

    stochastic: bool
    """False for a deterministic autoencoder, which has no KL and no ELBO."""

    @property
    def mode(self) -> Tensor:
        """The code that reconstructions use: the mean."""
        ...

    def rsample(self, rng: RandomSource) -> Tensor: ...

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of `z` under the distribution that `rsample` draws from."""
        ...

    @property
    def kl(self) -> Tensor:
        """The KL divergence to the prior in the loss."""
        ...

    @property
    def kl_effective(self) -> Tensor:
        """The KL divergence to the prior of the distribution that `rsample` draws from."""
        ...

    @property
    def kl_per_dimension(self) -> Tensor | None:
        """The KL in the loss of each latent dimension (B, D), or None where it is not a sum over them."""
        ...

    @property
    def kl_effective_per_dimension(self) -> Tensor | None:
        """Likewise of the distribution that `rsample` draws from, without noise: what each dimension tells."""
        ...

    def draw(self, rng: RandomSource) -> Draw:
        """A new sample with its log densities: one term of the importance-weighted bound."""
        ...

    @property
    def prior_mean(self) -> Tensor:
        """Latents in the shape of `mode` that tell nothing about the image: the prior's mean."""
        ...

    @property
    def prior_scale(self) -> Tensor:
        """The prior's standard deviation of each latent value, in the shape of z."""
        ...

    @property
    def standardised(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of each latent dimension (B, D), in standard deviations of the prior from its mean."""
        ...

    @property
    def variance(self) -> Tensor:
        """Marginal variance of each latent dimension (B, D)."""
        ...

    def diagnostics(self) -> Mapping[str, Tensor]:
        """Further per-image numbers (B,) worth a curve, by logged name."""
        ...
