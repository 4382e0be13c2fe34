"""The torch model: encoder -> posterior -> decoder -> likelihood -> loss."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal, Self, TypedDict, Unpack

import torch
from torch import Tensor, nn

from saaae.errors import UserError, nearest
from saaae.layers.attention import relative
from saaae.metrics.pixel_detection import squared_residual
from saaae.models.attention_hooks import attention_maps, from_attention_layers
from saaae.models.optimization import Optimization
from saaae.objectives.beta import ConstantBeta
from saaae.objectives.elbo import beta_elbo_loss
from saaae.objectives.likelihood import Likelihood
from saaae.posteriors.prior import Prior, StandardPrior
from saaae.ranges import ImageSize, PositiveInt
from saaae.rng import RandomSource
from saaae.types import Batch, Loss, Posterior

LatentChoice = Literal["mean", "sample"]
"""Latents of a reconstruction: the posterior mean, or one sample."""


class Parts(TypedDict):
    """What an autoencoder is made of. The parts arrive as partial constructors and learn their shapes from the model.

    Attributes:
        image_size: Side of the square images in pixels.
        image_channels: Channels of the images.
        latent_dim: Size D of a latent vector; None for a latent map.
        latent_channels: Channels C of a latent map (C, H', W') at the encoder's resolution; None for a vector.
        encoder: Makes the encoder of `image_shape`; it has an `output_shape`.
        posterior: Makes q(z|x) of `feature_shape` and `latent_shape`.
        decoder: Makes the decoder of `latent_shape` and `image_shape`.
        likelihood: p(x|z), with the link to images in [0, 1].
        beta: What the KL costs.
        optimizer: How the parameters are optimised.
    """

    image_size: ImageSize
    image_channels: PositiveInt
    latent_dim: PositiveInt | None
    latent_channels: PositiveInt | None
    encoder: Callable[..., nn.Module]
    posterior: Callable[..., nn.Module]
    decoder: Callable[..., nn.Module]
    likelihood: Likelihood
    beta: ConstantBeta
    optimizer: Optimization


class ImageAutoencoder(nn.Module):
    """An autoencoder of images with the loss `nll + beta * kl` in nats per image.

    Args:
        **parts: What it is made of.

    Raises:
        UserError: If the latent is neither or both of a vector and a map, or a part refuses its shapes.

    Attributes:
        latent_shape: (D,) of a vector, (C, H', W') of a map.
        decoder_shape: Shape of what the decoder takes: the latent's, unless a posterior appends something.
        num_dimensions: Pixels times channels of an image.
    """

    generates = True
    """Whether latents from the prior become images without an input image."""
    marks = False
    """Whether the model marks changed pixels itself, by an output of its own and not by the error it makes."""
    num_classes: int | None = None
    """Number of classes of a conditional model."""
    latent_shape: tuple[int, ...]
    encoder: nn.Module
    decoder: nn.Module

    def __init__(self, **parts: Unpack[Parts]) -> None:
        super().__init__()
        image_shape = (parts["image_channels"], parts["image_size"], parts["image_size"])
        self.encoder = parts["encoder"](image_shape=image_shape)
        features: tuple[int, ...] = self.encoder.output_shape  # type: ignore[assignment]
        latent_dim, latent_channels = parts["latent_dim"], parts["latent_channels"]
        if latent_dim is not None and latent_channels is None:
            self.latent_shape = (latent_dim,)
        elif latent_channels is not None and latent_dim is None:
            self.latent_shape = (latent_channels, *features[1:])
        else:
            raise UserError(
                f"model.latent_dim={latent_dim}, model.latent_channels={latent_channels}: "
                "expected exactly one, the other null"
            )
        self.posterior = parts["posterior"](feature_shape=features, latent_shape=self.latent_shape)
        self.decoder_shape: tuple[int, ...] = getattr(self.posterior, "decoder_shape", self.latent_shape)
        self.decoder = parts["decoder"](latent_shape=self.decoder_shape, image_shape=image_shape)
        self.likelihood, self.beta, self.optimization = parts["likelihood"], parts["beta"], parts["optimizer"]
        self.beta.check(self.posterior)
        self.num_dimensions = math.prod(image_shape)
        self._frozen: list[nn.Module] = []

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def loss_warning(self) -> str:
        """A warning about this model's loss; empty where the loss is a bound or a plain reconstruction error."""
        return ""

    @property
    def is_variational(self) -> bool:
        """Whether the model has a KL, and so an ELBO."""
        return bool(self.posterior.stochastic)

    @property
    def prior(self) -> Prior:
        """Latents without an image: N(0, I), unless the posterior has a `prior` of its own."""
        own: Prior = getattr(self.posterior, "prior", StandardPrior())
        return own

    @property
    def networks(self) -> list[nn.Module]:
        """The parts that run in reduced precision or are compiled; posterior, likelihood and losses are not."""
        return [self.encoder, self.decoder]

    def freeze(self, names: Sequence[str]) -> None:
        """Excludes modules from training: their parameters get no gradient, and they stay in evaluation mode.

        Dropout in them is off, and running statistics and scales stay as they are.

        Args:
            names: Dotted names of modules.

        Raises:
            UserError: If one is unknown or has no parameters, or nothing would be left to train.
        """
        modules = {name: module for name, module in self.named_modules() if name}
        for name in names:
            if name not in modules:
                raise UserError(f"freeze={name}: no such module{nearest(name, modules) or f'; expected {self._parts}'}")
            if not [*modules[name].parameters()]:
                raise UserError(f"freeze={name}: this module has no parameters")
            modules[name].requires_grad_(False)
            self._frozen.append(modules[name])
        if names and not any(parameter.requires_grad for parameter in self.parameters()):
            raise UserError(f"freeze=[{','.join(names)}]: nothing is left to train; expected some of these modules")
        self.train(self.training)

    @property
    def _parts(self) -> str:
        """Names of the outermost modules that have parameters."""
        return " or ".join(name for name, module in self.named_children() if [*module.parameters()])

    def train(self, mode: bool = True) -> Self:
        """Training or evaluation mode; frozen modules stay in evaluation mode."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def prepare(self, batch: Batch) -> Batch:
        """The batch with features that encoder and decoder share; by default there are none."""
        return batch

    def encode(self, batch: Batch) -> Posterior:
        """Posterior of the inputs of a batch."""
        return self.posterior(self.encoder(batch.input), batch.rng)

    def decoder_output(self, z: Tensor, batch: Batch) -> Tensor:
        """The decoder's real values (B, C, H, W) of latents (B, *latent_shape) for the images of a batch."""
        return self.decoder(z)

    def decode(self, z: Tensor, batch: Batch) -> Tensor:
        """Mean images (B, C, H, W) in [0, 1], float32, of latents (B, *latent_shape) for the images of a batch."""
        return self.likelihood.mean(self.decoder_output(z, batch))

    def forward(self, batch: Batch) -> Tensor:
        """Reconstructions (B, C, H, W) in [0, 1] from the posterior mean."""
        return self.reconstruct(batch)

    def reconstruct(self, batch: Batch, latents: LatentChoice = "mean") -> Tensor:
        """Reconstructions (B, C, H, W) in [0, 1] from the posterior mean or from one sample."""
        batch = batch if batch.skips else self.prepare(batch)
        posterior = self.encode(batch)
        z = posterior.mode if latents == "mean" else posterior.rsample(batch.rng)
        return self.decode(z, batch)

    def generate(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Images (N, C, H, W) in [0, 1] of latents (N, *latent_shape) and, for a conditional model, classes (N,)."""
        return self.likelihood.mean(self.decoder(z))

    def sample(self, count: int, rng: RandomSource, label: int | None = None) -> Tensor:
        """Images (count, C, H, W) decoded from latents of the prior: of one class, or of all classes in turn."""
        z = self.prior.sample(torch.empty(count, *self.latent_shape, device=self.device), rng)
        if not self.num_classes:
            return self.generate(z)
        classes = torch.arange(count, device=self.device) % self.num_classes
        return self.generate(z, classes if label is None else torch.full_like(classes, label))

    # Objective

    def training_batch(self, batch: Batch) -> Batch:
        """The batch as training uses it; by default unchanged."""
        return batch

    def loss(self, batch: Batch, step: int) -> tuple[Loss, Posterior]:
        """The objective of a training batch and its posterior.

        Args:
            batch: The images.
            step: Optimizer step, for the schedule of beta.
        """
        batch = self.prepare(self.training_batch(batch))
        posterior = self.encode(batch)
        nll = self.likelihood.nll(self.decoder_output(posterior.rsample(batch.rng), batch), batch.target)
        return beta_elbo_loss(nll, posterior, self.beta, step), posterior

    def importance_weighted_bound(self, batch: Batch, num_samples: int) -> Tensor:
        """log 1/k sum p(x, z_i) / q(z_i|x), z_i ~ q (Burda et al. 2016, eq. 8), (B,) in nats: tighter than the ELBO.

        Streams over the samples, so memory does not grow with their number.

        Args:
            batch: The images.
            num_samples: Number of samples k.
        """
        posterior = self.encode(batch)
        total = torch.full((len(batch.input),), -math.inf, device=batch.input.device)
        for _ in range(num_samples):
            z, log_prior, log_posterior = posterior.draw(batch.rng)
            nll = self.likelihood.nll(self.decoder_output(z, batch), batch.target)
            total = torch.logaddexp(total, log_prior - nll - log_posterior)
        return total - math.log(num_samples)

    # Inspection

    def marked(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Of a model with `marks`: reconstructions (B, C, H, W) in [0, 1] and anomaly maps (B, 1, H, W), at once."""
        raise NotImplementedError

    def anomaly_map(self, batch: Batch, latents: LatentChoice = "mean") -> Tensor:
        """What surprises the model (B, 1, H, W), before any smoothing: by default the squared error of reconstructions.

        Args:
            batch: Images, whose target is looked at.
            latents: Latents of the reconstructions.
        """
        return squared_residual(self.reconstruct(batch, latents), batch.target)

    def scores(self, batch: Batch, posterior: Posterior) -> Mapping[str, Tensor]:
        """Further scores of each image (B,) of a validation or test, by the metric's name; by default none."""
        return {}

    def maps(self, batch: Batch, posterior: Posterior) -> Mapping[str, Tensor]:
        """Heat maps (B, 1, h, w) in [0, 1] by title: importance as a share of its highest cell, attention layers."""
        importance = self.importance(posterior) if len(self.latent_shape) == 3 else None
        own = {} if importance is None else {"importance": relative(importance)}
        return {**own, **attention_maps(self, batch)}

    def gates(self, batch: Batch) -> Mapping[str, Tensor]:
        """Weights (B, C) in (0, 2) that attention layers give to channels, by the layer's name."""
        return from_attention_layers(self, batch, lambda layer, x: layer.channel_gates(x))

    @property
    def class_vectors(self) -> Tensor | None:
        """Learned class embeddings (K, size); None if there are none."""
        return None

    def importance(self, posterior: Posterior) -> Tensor | None:
        """What each latent cell tells of its image, in nats: its KL to the prior, summed over channels.

        Returns:
            (B, D) of a vector, (B, 1, h, w) of a map; None without noise, or where the KL is not a sum over dimensions.
        """
        kl = posterior.kl_effective_per_dimension
        if kl is None or len(self.latent_shape) == 1:
            return kl
        return kl.unflatten(1, (self.latent_shape[0], *posterior.mode.shape[2:])).sum(1, keepdim=True)

    def anchor(self, posterior: Posterior) -> Tensor | None:
        """Where a SAAAE reduces its noise: (B, D) of a vector, (B, 1, h, w) of a map; None for other models."""
        return None


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; restores the previous mode."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)
