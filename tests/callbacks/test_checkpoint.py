import lightning as L
import torch

from saaae.callbacks.checkpoint import LastCheckpoint
from saaae.models.lightning import AutoencoderModule
from saaae.runs.run import resolve_config
from saaae.signals import Interruption
from saaae.training.build import build
from tests.conftest import TINY


class StopAfter(L.Callback):
    """Ends training early, as max_time does."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        trainer.should_stop = trainer.global_step >= self.step


def test_an_epoch_that_ends_early_is_saved_at_its_position(compose_config, tmp_path):
    model, data = build(resolve_config(compose_config(*TINY)))
    path = tmp_path / "last.ckpt"
    last = LastCheckpoint(path, tmp_path / "previous.ckpt", None, None, Interruption())
    L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, max_epochs=3,
        use_distributed_sampler=False, callbacks=[StopAfter(5), last], enable_checkpointing=True,
    ).fit(AutoencoderModule(model), data)  # fmt: skip
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["global_step"] == 5
    assert checkpoint["SpeckleData"] == {"epoch": 1, "batch": 2}
