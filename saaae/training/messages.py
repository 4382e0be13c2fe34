"""What a run prints at its start and end, to the terminal and train.log."""

import logging
import sys
from pathlib import Path

from saaae.config.overrides import quoted
from saaae.data.datamodule import SPLITS, ImageDataModule
from saaae.models.autoencoder import ImageAutoencoder
from saaae.runs.checkpoints import Start
from saaae.runs.folder import RunFolder

log = logging.getLogger("saaae")


def _print_next_steps(shown: Path, folder: RunFolder) -> None:
    """Says where to look, and what to do next."""
    log.info("pictures     %s", shown / folder.picture("reconstructions").name)
    log.info("             %s", shown / folder.pictures.name)
    log.info("curves       tensorboard --logdir %s", shown)
    log.info("test again   python evaluate.py run=%s", quoted(shown))


def _print_start(
    model: ImageAutoencoder, data: ImageDataModule, shown: Path, start: Start, began: bool, sharded: bool
) -> None:
    counts = ", ".join(f"{data.num_images(split)} {split}" for split in SPLITS)
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    code = "x".join(map(str, model.latent_shape))
    for line in start.damaged:
        log.warning("warning: %s; passed over", line)
    anew = " (no checkpoint to continue from: begins anew)" if began else ""
    log.info("run          %s%s", shown, f" (continued from step {start.step})" if start.step else anew)
    log.info("data         %s images of %d pixels", counts, data.image_size)
    manifest = data.manifest()
    for reason, count in manifest["left_out"].items():
        log.info("left out     %d %s", count, reason)
    for name, why in manifest["skipped"].items():
        log.info("skipped      %s (%s)", name, why)
    for line in manifest.get("warnings", []):
        log.warning("warning: %s", line)
    log.info("model        %s, %.2f M parameters, code %s", type(model).__name__, parameters, code)
    if model.loss_warning:
        log.info("caveat       %s", model.loss_warning)
    if sharded:
        log.info("pictures     none during training: a model in parts cannot be looked at in one process")


def _log_to(path: Path) -> None:
    """Messages go to the terminal and to train.log; a later job of a sweep gets its own log."""
    for handler in log.handlers[:]:
        log.removeHandler(handler)
        handler.close()
    path.parent.mkdir(parents=True, exist_ok=True)
    for handler in (logging.StreamHandler(sys.stdout), logging.FileHandler(path)):
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
