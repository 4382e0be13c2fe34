"""What a run prints at its start and end, to the terminal and train.log."""

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saaae.config.overrides import quoted
from saaae.data.datamodule import SPLITS, ImageDataModule
from saaae.data.listing import listed
from saaae.models.autoencoder import ImageAutoencoder
from saaae.runs.checkpoints import Start
from saaae.runs.run import Run

log = logging.getLogger("saaae")

SHOWN = 5
"""Tensors of a source of weights that a message lists."""


def print_next_steps(run: Run) -> None:
    """Where the pictures and curves are, and the command that tests the run again."""
    folder, shown = run.folder, run.folder.label
    trust = f" trust=[{','.join(run.cfg.trust)}]" if run.cfg.trust else ""
    log.info("pictures     %s", shown / folder.picture("reconstructions").name)
    log.info("             %s", shown / folder.pictures.name)
    log.info("curves       tensorboard --logdir %s", shown)
    log.info("test again   python evaluate.py run=%s%s", quoted(shown), trust)


def print_start(run: Run, model: ImageAutoencoder, data: ImageDataModule, start: Start, began: bool) -> None:
    """What a run is about to train.

    Args:
        run: The run.
        model: Its model.
        data: Its data.
        start: Where it starts.
        began: Whether its folder holds an earlier start.
    """
    counts = ", ".join(f"{data.num_images(split)} {split}" for split in SPLITS)
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    latent = "x".join(map(str, model.latent_shape))
    for line in start.damaged:
        log.warning("warning: %s; ignored", line)
    again = " (no checkpoint to continue from: starts over)" if began else ""
    log.info("run          %s%s", run.folder.label, f" (continued from step {start.step})" if start.step else again)
    log.info("data         %s images of %d pixels", counts, data.image_size)
    if data.class_names:
        log.info("classes      %d: %s", len(data.class_names), listed(data.class_names))
    manifest = data.manifest()
    for reason, count in manifest["left_out"].items():
        log.info("left out     %d %s", count, reason)
    for name, why in manifest["skipped"].items():
        log.info("skipped      %s (%s)", name, why)
    for line in manifest.get("warnings", []):
        log.warning("warning: %s", line)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad) / 1e6
    shown = f"{parameters:.2f} M parameters" + (f" ({trained:.2f} M trained)" if run.cfg.freeze else "")
    log.info("model        %s, %s, latent %s", type(model).__name__, shown, latent)
    if run.cfg.ema is not None:
        log.info("ema          averaged weights, decay %g: validated, tested, and saved in best.ckpt", run.cfg.ema)
    if model.loss_warning:
        log.info("note         %s", model.loss_warning)
    if run.cfg.accelerator.strategy == "fsdp":
        log.info("pictures     none during training: no process has the whole model")


def print_source(record: Mapping[str, Any]) -> None:
    """The weights that a new run starts from, and what of them it does not take.

    Args:
        record: The run's record.
    """
    if not (source := record.get("init_from")):
        return
    log.info("init_from    %d of %d tensors, from %s", source["tensors_taken"], source["tensors"], source["path"])
    if reasons := source["not_taken"]:
        more = f" and {len(reasons) - SHOWN} more" if len(reasons) > SHOWN else ""
        log.info("not taken    %s%s", ", ".join(reasons[:SHOWN]), more)


def log_to(path: Path) -> None:
    """Sends messages to the terminal and to a file; a later job of a sweep gets its own file."""
    for handler in log.handlers[:]:
        log.removeHandler(handler)
        handler.close()
    path.parent.mkdir(parents=True, exist_ok=True)
    for handler in (logging.StreamHandler(sys.stdout), logging.FileHandler(path)):
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
