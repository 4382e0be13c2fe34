"""The one chain: batch -> encoder -> posterior -> decoder -> likelihood -> loss -> metrics -> logger."""

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from saaae.errors import UserError
from saaae.metrics.image import ReconstructionQuality
from saaae.models.optimization import Optimization
from saaae.noise import Noise
from saaae.objectives.beta import ConstantBeta
from saaae.objectives.elbo import beta_elbo_loss, bits_per_dimension
from saaae.objectives.likelihood import Likelihood
from saaae.ranges import ImageSize, PositiveInt
from saaae.types import Batch, Posterior

log = logging.getLogger("saaae")


class ImageAutoencoder(L.LightningModule):
    """An autoencoder of images, trained on `loss = nll + beta * kl` in nats per image.

    The parts arrive as partial constructors and learn their shapes here, so that no size is configured twice.

    Args:
        image_size: Side of the square images in pixels.
        image_channels: Channels of the images.
        latent_dim: Size D of a latent vector; None for a latent map.
        latent_channels: Channels C of a latent map (C, H', W') at the encoder's resolution; None for a vector.
        encoder: Makes the encoder of `image_shape`; it tells its `output_shape`.
        posterior: Makes q(z|x) of `feature_shape` and `latent_shape`.
        decoder: Makes the decoder of `latent_shape` and `image_shape`.
        likelihood: p(x|z), with the link to images in [0, 1].
        beta: Schedule of the weight of the KL.
        optimizer: How the parameters are optimised.
    """

    log_every_n_steps = 1
    """Optimizer steps between logged training losses; a run sets it."""
    run_config: Mapping[str, Any] = {}
    """Configuration of the run, plain containers: a checkpoint tells how to rebuild its model."""
    latent_shape: tuple[int, ...]
    encoder: nn.Module
    decoder: nn.Module

    def __init__(
        self,
        *,
        image_size: ImageSize,
        image_channels: PositiveInt,
        latent_dim: PositiveInt | None,
        latent_channels: PositiveInt | None,
        encoder: Callable[..., nn.Module],
        posterior: Callable[..., nn.Module],
        decoder: Callable[..., nn.Module],
        likelihood: Likelihood,
        beta: ConstantBeta,
        optimizer: Optimization,
    ) -> None:
        super().__init__()
        image_shape = (image_channels, image_size, image_size)
        self.encoder = encoder(image_shape=image_shape)
        features: tuple[int, ...] = self.encoder.output_shape  # type: ignore[assignment]
        if latent_dim is not None and latent_channels is None:
            self.latent_shape = (latent_dim,)
        elif latent_channels is not None and latent_dim is None:
            self.latent_shape = (latent_channels, *features[1:])
        else:
            raise UserError("model.latent_dim, model.latent_channels: exactly one of them must be set, the other null")
        self.posterior = posterior(feature_shape=features, latent_shape=self.latent_shape)
        self.decoder = decoder(latent_shape=self.latent_shape, image_shape=image_shape)
        self.likelihood, self.beta, self.optimization = likelihood, beta, optimizer
        self.num_dimensions = math.prod(image_shape)
        self.total_steps: int | None = None
        self.quality = ReconstructionQuality()
        self.quality_clean = ReconstructionQuality()

    @property
    def caveat(self) -> str:
        """What a reader of this model's loss must know; empty where the loss is what it seems."""
        return ""

    @property
    def has_bound(self) -> bool:
        """Whether the model has a KL, and so an ELBO."""
        return bool(self.posterior.stochastic)

    # The chain

    def encode(self, x: Tensor, noise: Noise) -> Posterior:
        """Posterior of images (B, C, H, W) in [0, 1]."""
        return self.posterior(self.encoder(x), noise)

    def decode(self, z: Tensor) -> Tensor:
        """Mean images (B, C, H, W) in [0, 1], float32, of codes (B, *latent_shape)."""
        return self.likelihood.mean(self.decoder(z))

    def forward(self, x: Tensor, noise: Noise) -> Tensor:
        """Reconstructions (B, C, H, W) in [0, 1] from z = mode."""
        return self.decode(self.encode(x, noise).mode)

    def sample(self, count: int, noise: Noise) -> Tensor:
        """Images (count, C, H, W) decoded from z ~ N(0, I)."""
        return self.decode(noise.normal(torch.empty(count, *self.latent_shape, device=self.device)))

    def maps(self, posterior: Posterior) -> Mapping[str, Tensor]:
        """No inner maps."""
        return {}

    # Training

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one batch; logged at the logger's interval only, so that no step waits for a number."""
        posterior = self.encode(batch.input, batch.noise)
        nll = self.likelihood.nll(self.decoder(posterior.rsample(batch.noise)), batch.target)
        loss = beta_elbo_loss(nll, posterior, self.beta(self.global_step))
        if (self.global_step + 1) % self.log_every_n_steps == 0:
            self.log_dict(
                {
                    "train/loss": loss.loss.detach(),
                    "train/nll": loss.nll.detach(),
                    "train/kl": loss.kl.detach(),
                    "train/beta": loss.beta,
                    "train/lr": self.trainer.optimizers[0].param_groups[0]["lr"],
                    **{f"train/{k}": v.detach().mean() for k, v in posterior.diagnostics().items()},
                }
            )
        return loss.loss

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
        """Clips the norm of the whole gradient; Lightning's own refuses fused optimizers under mixed precision."""
        if self.optimization.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self.parameters(), self.optimization.gradient_clip)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the bound steps, the configuration and the newest validation metrics."""
        metrics = self.trainer.callback_metrics.items()
        checkpoint["validation"] = {name: float(value) for name, value in metrics if name.startswith("val/")}
        checkpoint["config"] = self.run_config
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

    def on_validation_epoch_end(self) -> None:
        """Logs the streaming metrics."""
        self._log_quality("val")

    def on_test_epoch_end(self) -> None:
        """Logs the streaming metrics."""
        self._log_quality("test")

    def _evaluate(self, batch: Batch, split: str) -> None:
        posterior = self.encode(batch.input, batch.noise)
        raw = self.decoder(posterior.mode)
        x_hat = self.likelihood.mean(raw)
        self.quality.update(x_hat, batch.target)
        if batch.clean is not None and batch.clean is not batch.target:
            self.quality_clean.update(x_hat, batch.clean)
        nll = self.likelihood.nll(self.decoder(posterior.rsample(batch.noise)), batch.target)
        nll_mode = self.likelihood.nll(raw, batch.target)
        values = {"nll": nll, "nll_mode": nll_mode, "kl": posterior.kl, **posterior.diagnostics()}
        if posterior.stochastic:
            values["elbo"] = -(nll + posterior.kl_effective)
            values["bits_per_dim"] = bits_per_dimension(values["elbo"], self.num_dimensions, self.likelihood.discrete)
        means = {f"{split}/{name}": value.mean() for name, value in values.items()}
        self.log_dict(means, on_step=False, on_epoch=True, batch_size=len(batch.indices), sync_dist=True)

    def _log_quality(self, split: str) -> None:
        shown = {f"{split}/ssim", f"{split}/psnr"}
        for suffix, metric in (("", self.quality), ("_clean", self.quality_clean)):
            if metric.count > 0:
                for name, value in metric.compute().items():
                    tag = f"{split}/{name}{suffix}"
                    self.log(tag, value.float(), prog_bar=tag in shown)
            metric.reset()
