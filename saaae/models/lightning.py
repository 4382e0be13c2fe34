"""The LightningModule around a torch model: steps, metrics, optimizer, checkpoints."""

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from saaae.errors import UserError
from saaae.metrics.image import quality_of
from saaae.metrics.latent import LatentStatistics
from saaae.metrics.per_image import PerImage, of_validation, summary
from saaae.models.autoencoder import ImageAutoencoder, LatentChoice
from saaae.models.averaging import WeightAverage
from saaae.objectives.elbo import bits_per_dimension
from saaae.types import Batch

log = logging.getLogger("saaae")

DomainScores = Callable[[Tensor, Batch], Mapping[str, Tensor]]
"""Scores (B,) by name, of reconstructions (B, C, H, W) and their batch."""
PREFIX = "model."
"""Prefix of the torch model's weights in a checkpoint; checkpoints of version 0.1 have none."""


def model_weights(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by the torch model's own names, from a checkpoint with or without the prefix."""
    return {name.removeprefix(PREFIX): value for name, value in state_dict.items()}


class AutoencoderModule(L.LightningModule):
    """Trains and evaluates an `ImageAutoencoder`.

    Args:
        model: The torch model.
        log_every_n_steps: Optimizer steps between logged training losses.
        importance_samples: Samples k of the importance-weighted bound of a test; 0 leaves it out.
        domain_scores: Further test metrics of the images' domain; None for none.
        latents: Latents of the reconstructions that `ssim` and `psnr` compare.
        run_config: Configuration of the run, plain containers; stored in checkpoints, to rebuild the model.
        run_record: Seed, versions, data and device of the run, plain containers; stored in checkpoints.

    Attributes:
        gradient_norm: Norm of the whole gradient of the last step before clipping; 0 under a gradient scaler.
        latent_statistics: Statistics of the posterior since the start of the last validation or test.
        average: Average of the weights, which is validated and saved; None to validate and save the weights.
    """

    gradient_norm: Tensor

    def __init__(
        self,
        model: ImageAutoencoder,
        *,
        log_every_n_steps: int = 1,
        importance_samples: int = 0,
        domain_scores: DomainScores | None = None,
        latents: LatentChoice = "mean",
        run_config: Mapping[str, Any] | None = None,
        run_record: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.log_every_n_steps, self.importance_samples = log_every_n_steps, importance_samples
        self.domain_scores, self.latents = domain_scores, latents
        self.run_config, self.run_record = run_config or {}, run_record or {}
        self.total_steps: int | None = None
        self.gradient_norm = torch.zeros(())
        self.scores = PerImage()
        self.latent_statistics = LatentStatistics(math.prod(model.latent_shape))
        self.average: WeightAverage | None = None

    # Training

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """The loss of one batch and its terms; every `log_every_n_steps` also diagnostics worth a curve."""
        loss, posterior = self.model.loss(batch, self.global_step)
        numbers = {"loss": loss.loss, "nll": loss.nll.detach(), "kl": loss.kl.detach()}
        if (self.global_step + 1) % self.log_every_n_steps == 0:
            numbers["beta"] = torch.as_tensor(loss.beta)
            numbers["lr"] = torch.as_tensor(self.trainer.optimizers[0].param_groups[0]["lr"])
            numbers |= {name: value.detach().mean() for name, value in posterior.diagnostics().items()}
            numbers |= self.model.beta.diagnostics()
        return numbers

    def configure_model(self) -> None:
        """Shards the networks and the remaining weights over the processes of a device mesh (FSDP2)."""
        if self.device_mesh is None or isinstance(next(self.parameters()), DTensor):
            return
        mesh = self.device_mesh["data_parallel"]
        for part in (*self.model.networks, self):
            fully_shard(part, mesh=mesh)
        for step in ("training_step", "validation_step"):
            register_fsdp_forward_method(self, step)

    def configure_optimizers(self) -> Any:
        """Makes the optimizer and binds the schedules to absolute steps, once per run."""
        if self.total_steps is None:
            steps = self.trainer.estimated_stepping_batches
            if math.isinf(steps):
                raise UserError("trainer.max_epochs, trainer.max_steps: one of them must end the run")
            self.total_steps = int(steps)
        elif self.trainer.estimated_stepping_batches > self.total_steps:
            exception = self.model.optimization.exception_after_end(self.total_steps)
            log.info("schedules    end at step %d, as first planned, and stay there%s", self.total_steps, exception)
        self.model.beta.bind(self.total_steps)
        # A fused optimizer undoes the scaling of 16-bit gradients itself, after they would have been clipped.
        fused = str(self.trainer.precision) != "16-mixed"
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer, scheduler = self.model.optimization.build(trained, self.total_steps, fused)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """Clips the norm of the whole gradient; Lightning refuses fused optimizers under mixed precision.

        A fused optimizer skips a step on the device when `found_inf` is 1: a non-finite gradient changes no weight.
        Under 16-bit precision the gradient scaler does that.
        """
        norm = nn.utils.clip_grad_norm_(self.parameters(), self.model.optimization.gradient_clip or math.inf)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if optimizer.defaults.get("fused"):
            self.gradient_norm = norm
            optimizer.found_inf = 1.0 - norm.isfinite().float()  # type: ignore[attr-defined]

    def on_fit_start(self) -> None:
        """Starts the average, once the weights are on their device and those of a checkpoint are restored."""
        if self.average:
            self.average.begin(self.named_parameters())

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Makes an optimizer step, and averages the weights after it."""
        super().optimizer_step(*args, **kwargs)
        if self.average:
            self.average.update()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the schedules' steps, the configuration, the run's record, and the newest validation metrics."""
        checkpoint["validation"] = of_validation(self.trainer.callback_metrics)
        checkpoint["config"], checkpoint["run"] = self.run_config, self.run_record
        checkpoint["schedules"] = {"total_steps": self.total_steps, "beta": self.model.beta.state_dict()}
        if self.average:
            self.average.save(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores the schedules, before `configure_optimizers`; gives weights of version 0.1 their prefix."""
        self.total_steps = checkpoint["schedules"]["total_steps"]
        self.model.beta.load_state_dict(checkpoint["schedules"]["beta"])
        if "state_dict" in checkpoint:
            weights = model_weights(checkpoint["state_dict"])
            checkpoint["state_dict"] = {f"{PREFIX}{name}": value for name, value in weights.items()}
            if self.average:
                self.average.load(checkpoint)

    # Evaluation

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch, "test")

    def on_validation_start(self) -> None:
        """From here on the model has the average: pictures and best.ckpt are of what is validated."""
        if self.average:
            self.average.put_in()

    def on_validation_end(self) -> None:
        """Ends that; Lightning calls the callbacks first."""
        if self.average:
            self.average.take_out()

    def on_validation_epoch_start(self) -> None:
        """Resets the statistics of the latent, which callbacks read after a validation."""
        self.latent_statistics.reset()

    def on_test_epoch_start(self) -> None:
        self.latent_statistics.reset()

    def on_validation_epoch_end(self) -> None:
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        self._log_scores("test")

    def _evaluate(self, batch: Batch, split: str) -> None:
        model, likelihood = self.model, self.model.likelihood
        batch = model.prepare(batch)
        posterior = model.encode(batch)
        from_mode = model.decoder_output(posterior.mode, batch)
        sampled = model.decoder_output(posterior.rsample(batch.rng), batch)
        x_hat = likelihood.mean(from_mode if self.latents == "mean" else sampled)
        self.latent_statistics.update(posterior)
        nll = likelihood.nll(sampled, batch.target)
        values = {"nll": nll, "nll_mode": likelihood.nll(from_mode, batch.target), "kl": posterior.kl}
        values |= {**posterior.diagnostics(), **model.scores(batch, posterior)}
        if posterior.stochastic:
            values["elbo"] = -(nll + posterior.kl_effective)
            values["bits_per_dim"] = bits_per_dimension(values["elbo"], model.num_dimensions, likelihood.discrete)
        if posterior.stochastic and split == "test" and self.importance_samples:
            values["iw_elbo"] = model.importance_weighted_bound(batch, self.importance_samples)
        values |= quality_of(x_hat, batch.target, batch.clean, multiscale=split == "test")
        if split == "test" and self.domain_scores:
            values |= self.domain_scores(x_hat, batch)
        self.scores.update(values)

    def _log_scores(self, split: str) -> None:
        numbers = summary(self.scores.compute(), spread=split == "test")
        self.scores.reset()
        if self.model.is_variational:
            numbers["active_units"] = self.latent_statistics.compute()["active_units"]
        self.log_dict({f"{split}/{name}": value.float() for name, value in numbers.items()})
