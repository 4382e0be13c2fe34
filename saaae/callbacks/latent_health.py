"""Warnings about the latent space, in the epoch in which a problem appears."""

import logging
from collections.abc import Iterator

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger

from saaae.metrics.latent import ACTIVE
from saaae.models.lightning import AutoencoderModule

log = logging.getLogger("saaae")

EXPLODED = 100.0**2
"""Variance of the posterior means over the data, as a multiple of the prior's, that no prior explains."""
NOISELESS = 1e-4
"""Posterior variance, as a share of the prior's, below which an active dimension is deterministic."""


class LatentHealth(Callback):
    """Warns once per process of a collapsed, exploded or deterministic latent and of a loss that is not a bound.

    Also shows of each latent dimension, as histograms in TensorBoard, the KL, the standard deviation of the posterior
    mean over the data and the mean posterior standard deviation, both relative to the prior's.
    """

    def __init__(self) -> None:
        self._warned: set[str] = set()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Checks the latent statistics of a validation."""
        if not isinstance(pl_module, AutoencoderModule) or not pl_module.model.is_variational:
            return
        if trainer.sanity_checking:
            return
        statistics = pl_module.latent_statistics.compute()
        known = bool(statistics["kl"].any())  # not if the KL is not a sum over dimensions
        shown = {"kl": statistics["kl"]} if known else {}
        shown |= {"std_of_mean": statistics["spread"].sqrt(), "posterior_std": statistics["variance"].sqrt()}
        for logger in trainer.loggers if trainer.is_global_zero else []:
            if isinstance(logger, TensorBoardLogger):
                for name, values in ((name, values) for name, values in shown.items() if values.isfinite().all()):
                    logger.experiment.add_histogram(f"latent_dimensions/{name}", values, trainer.global_step - 1)
        numbers = {name: float(value) for name, value in trainer.callback_metrics.items()}
        active = statistics["spread"] > ACTIVE
        problems = dict(
            self._problems(
                numbers,
                int(active.sum()),
                len(active),
                float(statistics["spread"].max()),
                float(statistics["variance"][active].max()) if active.any() else 1.0,
            )
        )
        for name, message in problems.items():
            if name not in self._warned:
                self._warned.add(name)
                log.warning("warning: %s", message)

    @staticmethod
    def _problems(
        numbers: dict[str, float], active: int, size: int, spread: float, variance: float
    ) -> Iterator[tuple[str, str]]:
        """Name and description of each problem.

        Args:
            numbers: Logged metrics.
            active: Active dimensions.
            size: All dimensions.
            spread: Largest variance of a posterior mean over the data.
            variance: Largest mean posterior variance of an active dimension.
        """
        if active == 0 and spread < EXPLODED:
            yield (
                "collapse",
                f"collapsed latent: the posterior mean of none of {size} dimensions depends on the image (KL "
                f"{numbers.get('val/kl', 0.0):.3g} nats); a smaller beta.value, beta=linear or beta=free_bits may help",
            )
        if not spread < EXPLODED:
            yield (
                "explosion",
                f"exploded latent: posterior means spread to {spread**0.5:.3g} times the standard deviation of the "
                "prior; a smaller optimizer.lr or optimizer.gradient_clip may help",
            )
        if active and variance < NOISELESS:
            yield (
                "determinism",
                f"deterministic latent: every active dimension has a posterior variance below {NOISELESS:g}; "
                "the noise has no effect and samples from the prior will not look like data; a larger beta.value may "
                "help",
            )
        uncharged, charged = numbers.get("val/uncharged_nats", 0.0), numbers.get("val/kl", 0.0)
        if uncharged > charged:
            yield (
                "uncharged",
                f"{uncharged:.1f} nats per image pass the latent uncharged, more than the {charged:.1f} that the loss "
                "charges: with posterior.kl=nominal the loss is not an ELBO; compare runs by elbo and kl_effective",
            )
