"""Names what goes wrong in the latent space."""

import logging

import lightning as L
from lightning.pytorch.callbacks import Callback

log = logging.getLogger("saaae")


class LatentHealth(Callback):
    """Warns, once a run, when the noise that a SAAAE removes is worth more than the KL that its loss charges."""

    def __init__(self) -> None:
        self._warned = False

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compares the uncharged nats with the charged KL."""
        metrics = trainer.callback_metrics
        uncharged, charged = metrics.get("val/uncharged_nats"), metrics.get("val/kl")
        if not self._warned and uncharged is not None and charged is not None and float(uncharged) > float(charged):
            self._warned = True
            log.warning(
                "warning: %.1f nats per image pass the latent uncharged, more than the %.1f that the loss charges: "
                "with posterior.kl=nominal the loss is not an ELBO; compare runs by elbo and kl_effective",
                float(uncharged), float(charged),
            )  # fmt: skip
