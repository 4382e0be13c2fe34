"""The one chain: batch -> encoder -> posterior -> decoder -> likelihood -> loss -> metrics -> logger."""

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypedDict, Unpack

import lightning as L
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from saaae.errors import UserError
from saaae.layers.attention import AttentionLayer
from saaae.metrics.image import quality_of
from saaae.metrics.latent import LatentStatistics
from saaae.metrics.per_image import PerImage, of_validation, summary
from saaae.models.optimization import Optimization
from saaae.noise import Noise
from saaae.objectives.beta import ConstantBeta
from saaae.objectives.elbo import beta_elbo_loss, bits_per_dimension
from saaae.objectives.likelihood import Likelihood
from saaae.ranges import ImageSize, PositiveInt
from saaae.types import Batch, Posterior

log = logging.getLogger("saaae")

DomainScores = Callable[[Tensor, Batch], Mapping[str, Tensor]]
"""Numbers (B,) by name of reconstructions (B, C, H, W) and the batch that they belong to."""


def watched(
    model: "ImageAutoencoder", batch: Batch, look: Callable[[AttentionLayer, Tensor], Tensor | None]
) -> dict[str, Tensor]:
    """What a look at the inputs of each attention layer gives, by where the layer is.

    Args:
        model: The model.
        batch: Images to attend to.
        look: Given a layer and its features (B, C, H, W); None is left out.
    """
    found: dict[str, Tensor] = {}

    def watch(name: str, layer: AttentionLayer) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen = look(layer, inputs[0].float())
            if seen is not None:
                found[name] = seen

        return layer.register_forward_pre_hook(hook)

    hooks = [watch(name, layer) for name, layer in model.named_modules() if isinstance(layer, AttentionLayer)]
    if hooks:
        model(batch)
    for handle in hooks:
        handle.remove()
    return dict(sorted(found.items()))


def attention_maps(model: "ImageAutoencoder", batch: Batch) -> dict[str, Tensor]:
    """Heat maps (B, 1, h, w) in [0, 1] of a model's attention layers, by where they are; of nested ones the outermost.

    Args:
        model: The model.
        batch: Images to attend to.
    """
    heat = watched(model, batch, lambda layer, x: layer.heat_map(x))
    outermost = [name for name in heat if not any(name.startswith(f"{other}.") for other in heat)]
    return {f"attention, {name.removesuffix('.0')}": heat[name] for name in outermost}


class Parts(TypedDict):
    """What an autoencoder is made of. The parts arrive as partial constructors and learn their shapes from the model.

    Attributes:
        image_size: Side of the square images in pixels.
        image_channels: Channels of the images.
        latent_dim: Size D of a latent vector; None for a latent map.
        latent_channels: Channels C of a latent map (C, H', W') at the encoder's resolution; None for a vector.
        encoder: Makes the encoder of `image_shape`; it tells its `output_shape`.
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


class ImageAutoencoder(L.LightningModule):
    """An autoencoder of images, trained on `loss = nll + beta * kl` in nats per image.

    Args:
        **parts: What it is made of.

    Raises:
        UserError: If the latent is neither or both of a vector and a map, or a part refuses its shapes.
    """

    log_every_n_steps = 1
    """Optimizer steps between logged training losses; a run sets it."""
    run_config: Mapping[str, Any] = {}
    """Configuration of the run, plain containers: a checkpoint tells how to rebuild its model."""
    reconstruct_from: Literal["mean", "sample"] = "mean"
    """Which code the images come from that `ssim` and `psnr` compare."""
    importance_samples = 0
    """Samples k of the importance-weighted bound of a test; 0 leaves it out."""
    generates = True
    """Whether codes from the prior become images without anything else."""
    num_classes: int | None = None
    """Number of classes of a conditional model."""
    domain_scores: DomainScores = staticmethod(lambda x_hat, batch: {})
    """What the field of the images measures of each test image beside the common numbers; a run sets it."""
    run_record: Mapping[str, Any] = {}
    """What a run is made of, plain containers: a checkpoint tells it too."""
    gradient_norm: Tensor
    """Norm of the whole gradient of the last step, before clipping; 0 where a gradient scaler looks at it."""
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
            raise UserError("model.latent_dim, model.latent_channels: exactly one of them must be set, the other null")
        self.posterior = parts["posterior"](feature_shape=features, latent_shape=self.latent_shape)
        self.decoder = parts["decoder"](latent_shape=self.latent_shape, image_shape=image_shape)
        self.likelihood, self.beta, self.optimization = parts["likelihood"], parts["beta"], parts["optimizer"]
        self.num_dimensions = math.prod(image_shape)
        self.total_steps: int | None = None
        self.gradient_norm = torch.zeros(())
        self.scores = PerImage()
        self.latent_statistics = LatentStatistics(math.prod(self.latent_shape))

    @property
    def caveat(self) -> str:
        """What a reader of this model's loss must know; empty where the loss is what it seems."""
        return ""

    @property
    def has_bound(self) -> bool:
        """Whether the model has a KL, and so an ELBO."""
        return bool(self.posterior.stochastic)

    @property
    def networks(self) -> list[nn.Module]:
        """The parts that a reduced precision or a compiler is for; posterior, likelihood and losses are not."""
        return [self.encoder, self.decoder]

    # The chain

    def observe(self, batch: Batch) -> Batch:
        """The batch with what encoder and decoder both use of its input; by default there is nothing."""
        return batch

    def encode(self, batch: Batch) -> Posterior:
        """Posterior of the inputs of a batch."""
        return self.posterior(self.encoder(batch.input), batch.noise)

    def raw(self, z: Tensor, batch: Batch) -> Tensor:
        """The decoder's real values (B, C, H, W) of codes (B, *latent_shape) for the images of a batch."""
        return self.decoder(z)

    def decode(self, z: Tensor, batch: Batch) -> Tensor:
        """Mean images (B, C, H, W) in [0, 1], float32, of codes (B, *latent_shape) for the images of a batch."""
        return self.likelihood.mean(self.raw(z, batch))

    def forward(self, batch: Batch) -> Tensor:
        """Reconstructions (B, C, H, W) in [0, 1] from z = mode."""
        batch = self.observe(batch)
        return self.decode(self.encode(batch).mode, batch)

    def reconstruct(self, batch: Batch) -> Tensor:
        """Reconstructions (B, C, H, W) in [0, 1] from the kind of code that the metrics take."""
        batch = batch if batch.seen else self.observe(batch)
        posterior = self.encode(batch)
        z = posterior.mode if self.reconstruct_from == "mean" else posterior.rsample(batch.noise)
        return self.decode(z, batch)

    def generate(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Images (N, C, H, W) in [0, 1] of codes (N, *latent_shape) and, where the model has them, classes (N,)."""
        return self.likelihood.mean(self.decoder(z))

    def sample(self, count: int, noise: Noise, label: int | None = None) -> Tensor:
        """Images (count, C, H, W) decoded from z ~ N(0, I): of one class, or of all in turn where there are any."""
        z = noise.normal(torch.empty(count, *self.latent_shape, device=self.device))
        if not self.num_classes:
            return self.generate(z)
        classes = torch.arange(count, device=self.device) % self.num_classes
        return self.generate(z, classes if label is None else torch.full_like(classes, label))

    def maps(self, batch: Batch, posterior: Posterior) -> Mapping[str, Tensor]:
        """Heat maps (B, 1, h, w) in [0, 1] of the attention layers that have one."""
        return attention_maps(self, batch)

    def gates(self, batch: Batch) -> Mapping[str, Tensor]:
        """Weights (B, C) in (0, 2) that attention layers give to channels, by where they are."""
        return watched(self, batch, lambda layer, x: layer.channel_gates(x))

    @property
    def class_vectors(self) -> Tensor | None:
        """Learnt vectors (K, size) that stand for classes; None if there are none."""
        return None

    def importance(self, posterior: Posterior) -> Tensor | None:
        """How important each cell of the code is: (B, D) for a vector, (B, 1, h, w) for a map; None if unknown."""
        return None

    # Training

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """The loss of one batch and its terms; at the logger's interval also what is worth a curve beside them."""
        batch = self.observe(batch)
        posterior = self.encode(batch)
        nll = self.likelihood.nll(self.raw(posterior.rsample(batch.noise), batch), batch.target)
        loss = beta_elbo_loss(nll, posterior, self.beta, self.global_step)
        numbers = {"loss": loss.loss, "nll": loss.nll.detach(), "kl": loss.kl.detach()}
        if (self.global_step + 1) % self.log_every_n_steps == 0:
            numbers["beta"] = torch.as_tensor(loss.beta)
            numbers["lr"] = torch.as_tensor(self.trainer.optimizers[0].param_groups[0]["lr"])
            numbers |= {name: value.detach().mean() for name, value in posterior.diagnostics().items()}
        return numbers

    def configure_model(self) -> None:
        """Shards networks and the rest over the processes where the strategy has a mesh of them (FSDP2)."""
        if self.device_mesh is None or isinstance(next(self.parameters()), DTensor):
            return
        mesh = self.device_mesh["data_parallel"]
        for part in (*self.networks, self):
            fully_shard(part, mesh=mesh)
        for step in ("training_step", "validation_step"):
            register_fsdp_forward_method(self, step)

    def configure_optimizers(self) -> Any:
        """Binds the schedules to absolute steps, once in the life of a run."""
        if self.total_steps is None:
            steps = self.trainer.estimated_stepping_batches
            if math.isinf(steps):
                raise UserError("trainer.max_epochs, trainer.max_steps: one of them must end the run")
            self.total_steps = int(steps)
        elif self.trainer.estimated_stepping_batches > self.total_steps:
            log.info("schedules    end at step %d, as first planned, and stay there", self.total_steps)
        self.beta.bind(self.total_steps)
        # A fused optimizer undoes the scaling of 16-bit gradients itself, after they would have been clipped.
        fused = str(self.trainer.precision) != "16-mixed"
        optimizer, scheduler = self.optimization.build(self.parameters(), self.total_steps, fused)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """Clips the norm of the whole gradient; Lightning's own refuses fused optimizers under mixed precision.

        A fused optimizer leaves a step out on the device when `found_inf` is 1: a gradient that is not finite reaches
        no weight. Under 16-bit precision the gradient scaler sees to that.
        """
        norm = nn.utils.clip_grad_norm_(self.parameters(), self.optimization.gradient_clip or math.inf)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if optimizer.defaults.get("fused"):
            self.gradient_norm = norm
            optimizer.found_inf = 1.0 - norm.isfinite().float()  # type: ignore[attr-defined]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the bound steps, the configuration, what the run is made of, and the newest validation metrics."""
        checkpoint["validation"] = of_validation(self.trainer.callback_metrics)
        checkpoint["config"], checkpoint["run"] = self.run_config, self.run_record
        checkpoint["schedules"] = {"total_steps": self.total_steps, "beta": self.beta.state_dict()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes them over: runs before `configure_optimizers`."""
        self.total_steps = checkpoint["schedules"]["total_steps"]
        self.beta.load_state_dict(checkpoint["schedules"]["beta"])

    # Evaluation

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Metrics of one validation batch."""
        self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Metrics of one test batch."""
        self._evaluate(batch, "test")

    def on_validation_epoch_start(self) -> None:
        """The latent's statistics are kept until the next validation, for whoever looks at them."""
        self.latent_statistics.reset()

    def on_test_epoch_start(self) -> None:
        """Likewise."""
        self.latent_statistics.reset()

    def on_validation_epoch_end(self) -> None:
        """Logs the streaming metrics."""
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        """Logs the streaming metrics."""
        self._log_scores("test")

    def _evaluate(self, batch: Batch, split: str) -> None:
        batch = self.observe(batch)
        posterior = self.encode(batch)
        raw, sampled = self.raw(posterior.mode, batch), self.raw(posterior.rsample(batch.noise), batch)
        x_hat = self.likelihood.mean(raw if self.reconstruct_from == "mean" else sampled)
        self.latent_statistics.update(posterior)
        nll = self.likelihood.nll(sampled, batch.target)
        nll_mode = self.likelihood.nll(raw, batch.target)
        values = {"nll": nll, "nll_mode": nll_mode, "kl": posterior.kl, **posterior.diagnostics()}
        if posterior.stochastic:
            values["elbo"] = -(nll + posterior.kl_effective)
            values["bits_per_dim"] = bits_per_dimension(values["elbo"], self.num_dimensions, self.likelihood.discrete)
            if split == "test" and self.importance_samples:
                values["iw_elbo"] = self.importance_weighted_bound(batch, self.importance_samples)
        values |= quality_of(x_hat, batch.target, batch.clean, multiscale=split == "test")
        values |= self.domain_scores(x_hat, batch) if split == "test" else {}
        self.scores.update(values)

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
            z = posterior.rsample(batch.noise)
            prior = -0.5 * (z**2 + math.log(2 * math.pi)).flatten(1).sum(1)
            nll = self.likelihood.nll(self.raw(z, batch), batch.target)
            total = torch.logaddexp(total, prior - nll - posterior.log_prob(z))
        return total - math.log(num_samples)

    def _log_scores(self, split: str) -> None:
        numbers = summary(self.scores.compute(), spread=split == "test")
        self.scores.reset()
        if self.has_bound:
            numbers["active_units"] = self.latent_statistics.compute()["active_units"]
        self.log_dict({f"{split}/{name}": value.float() for name, value in numbers.items()})
