"""Checks of a configuration against the built model and the loaded data."""

import torch
from omegaconf import DictConfig

from saaae.data.datamodule import SPLITS, ImageDataModule
from saaae.errors import UserError
from saaae.metrics.catalog import flagged
from saaae.models.autoencoder import ImageAutoencoder
from saaae.training.devices import num_processes
from saaae.training.objective import in_study, objectives


def monitor_of(cfg: DictConfig, model: ImageAutoencoder, data: ImageDataModule) -> tuple[str, str]:
    """What chooses best.ckpt, and whether it is maximised: never a quantity that beta moves.

    Raises:
        UserError: If the model or the data do not have it, or not what a study is about.
    """
    monitor = cfg.checkpoint.monitor or ("val/elbo" if model.is_variational else "val/ssim")
    asked = {"checkpoint.monitor": [monitor], "objective": objectives(cfg) if cfg.objective or in_study() else []}
    example = data.batch("val", torch.zeros(1, dtype=torch.long))
    for key, name in ((key, name) for key, names in asked.items() for name in names):
        if flagged(name, "needs_kl") and not model.is_variational:
            raise UserError(f"{key}={name}: this model has no KL and no ELBO; expected val/ssim")
        if name == "val/marking" and not model.marks:
            raise UserError(f"{key}={name}: this model marks nothing; expected a model=fabric_unet")
        if name.endswith("_clean") and (example.clean is None or example.clean is example.target):
            raise UserError(f"{key}={name}: these data have no clean reference beside the target")
    return monitor, "min" if flagged(monitor, "minimize") else "max"


def check_limits(cfg: DictConfig, data: ImageDataModule) -> None:
    """Compares what counts batches with the batches that there are.

    Raises:
        UserError: If nothing would be left of a split, or validation would never come.
    """
    trainer, processes = cfg.trainer, num_processes(cfg.accelerator)
    images_a_step = data.batch_size * processes
    for split in SPLITS:
        if data.num_images(split) < processes:
            raise UserError(f"accelerator.devices={processes}: more than the {data.num_images(split)} {split} images")
        limit, batches = trainer[f"limit_{split}_batches"], -(-data.num_images(split) // images_a_step)
        if isinstance(limit, float) and int(limit * batches) == 0:
            raise UserError(f"trainer.limit_{split}_batches={limit}: leaves none of {batches} batches")
    batches, every = -(-data.num_images("train") // images_a_step), trainer.val_check_interval
    if (limit := trainer.limit_train_batches) is not None:
        batches = min(limit, batches) if isinstance(limit, int) else int(limit * batches)
    if isinstance(every, int) and every > batches and trainer.check_val_every_n_epoch is not None:
        raise UserError(
            f"trainer.val_check_interval={every}: an epoch has {batches} batches; "
            "expected fewer, or trainer.check_val_every_n_epoch=null as well"
        )
