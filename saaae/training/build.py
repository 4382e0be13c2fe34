"""Builds model and data of a configuration."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from saaae.config.settings import plain
from saaae.data.datamodule import ImageDataModule
from saaae.data.folder import FolderData
from saaae.errors import UserError, out_of_memory
from saaae.metrics.speckle import speckle_quality
from saaae.models.autoencoder import ImageAutoencoder, LatentChoice
from saaae.models.lightning import AutoencoderModule
from saaae.runs.checkpoints import read_weights
from saaae.runs.source import weights_file
from saaae.training.devices import prepare_networks
from saaae.training.initial import fitting_weights
from saaae.training.memory import within_memory
from saaae.types import Batch

log = logging.getLogger("saaae")


def radar_scores(x_hat: Tensor, batch: Batch) -> dict[str, Tensor]:
    """Scores of a despeckled image."""
    return speckle_quality(x_hat, batch.input, batch.clean, batch.window)


def build(cfg: DictConfig, test_all: bool = False) -> tuple[ImageAutoencoder, ImageDataModule]:
    """Model and loaded data of a configuration.

    Args:
        cfg: Resolved configuration.
        test_all: Whether all images of a folder test, for a model that was not trained on any of them.

    Raises:
        UserError: If a part refuses its settings or the data cannot be read.
    """
    with within_memory(cfg, "model"):
        model = instantiated(cfg.model)
    data = load_data(cfg, model, test_all)
    return prepared(model, cfg), data


def load_data(cfg: DictConfig, model: ImageAutoencoder, test_all: bool = False) -> ImageDataModule:
    """Loaded data of a configuration, checked against its model; arguments and errors as in `build`."""
    with within_memory(cfg, "data"):
        data = instantiated(cfg.data)
        if test_all and isinstance(data, FolderData):
            data.test_all = True
        check_together(model, data)
        data.prepare_data()
        data.setup()
    return data


def instantiated(node: DictConfig) -> Any:
    """What a configuration node builds; a user error inside is raised as itself."""
    try:
        return instantiate(node, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        raise (cause if isinstance(cause, UserError) or (cause and out_of_memory(cause)) else error) from None


def prepared(model: ImageAutoencoder, cfg: DictConfig) -> ImageAutoencoder:
    """A fresh model with its networks in the configured precision and memory format."""
    prepare_networks(model, cfg.accelerator)
    return model


def lightning_module(
    model: ImageAutoencoder,
    data: ImageDataModule,
    cfg: DictConfig,
    record: Mapping[str, Any] | None = None,
    latents: LatentChoice = "mean",
) -> AutoencoderModule:
    """The LightningModule that trains and tests a model.

    Args:
        model: The torch model.
        data: Its data.
        cfg: Resolved configuration, which checkpoints store.
        record: Seed, versions, data and device of the run, which checkpoints store.
        latents: Latents of the reconstructions that metrics compare.
    """
    return AutoencoderModule(
        model,
        log_every_n_steps=cfg.trainer.log_every_n_steps,
        importance_samples=cfg.importance_samples,
        domain_scores=radar_scores if data.domain == "radar" else None,
        latents=latents,
        run_config=plain(cfg),
        run_record=record,
    )


def build_errors(cfgs: Iterable[DictConfig]) -> list[str]:
    """Builds models on torch's meta device, without memory, and data without reading images; one line for each error.

    Weights to start from are compared with the model where they exist: a run that goes on needs them no more.

    An error of another kind than UserError is left to the job: its stack trace is worth more than a line.
    """
    errors: dict[str, None] = {}
    for cfg in cfgs:
        try:
            with torch.device("meta"):
                model = instantiated(cfg.model)
            check_together(model, instantiated(cfg.data))
            model.freeze(cfg.freeze)
            check_stages(cfg)
            if cfg.init_from is not None and Path(cfg.init_from).exists():
                path = weights_file(cfg.init_from)
                fitting_weights(model, read_weights(path), path)
        except UserError as error:
            errors[str(error)] = None
        except Exception as error:
            log.debug("dry build: %s", error)
    return list(errors)


def check_stages(cfg: DictConfig) -> None:
    """Checks that the weights of a growing run's model have the same names and shapes at all its image sizes.

    Raises:
        UserError: If they have not, or a part refuses a size.
    """
    final = _shapes(cfg) if cfg.stages else {}
    for size, _ in cfg.stages:
        small = cfg.copy()
        small.data.image_size = size
        shapes = _shapes(small)
        if differing := [name for name in {**final, **shapes} if final.get(name) != shapes.get(name)]:
            raise UserError(
                f"stages: the weights of this model depend on the image size ({differing[0]} at {size} and "
                f"{cfg.data.image_size} pixels); expected a convolutional model with a latent map, such as "
                "model=vae model.latent_channels=16"
            )


def _shapes(cfg: DictConfig) -> dict[str, torch.Size]:
    """Shapes of a model's weights, without memory."""
    with torch.device("meta"):
        return {name: value.shape for name, value in instantiated(cfg.model).state_dict().items()}


def check_crop(crop: int, image_size: int, model: ImageAutoencoder) -> None:
    """Checks that a model takes crops of its training images.

    Raises:
        UserError: If its latent is a vector, or the crops are no whole number of latent cells.
    """
    if len(model.latent_shape) == 1:
        raise UserError(f"data.crop={crop}: a latent vector is one of whole images; expected data.crop=null")
    stride = image_size // model.latent_shape[-1]
    if crop % stride:
        raise UserError(f"data.crop={crop}: expected a multiple of {stride}, the side of a latent cell in pixels")


def check_together(model: ImageAutoencoder, data: ImageDataModule) -> None:
    """Checks a model against its data.

    Raises:
        UserError: If they have different classes, or the likelihood describes noise and the targets have none.
    """
    if model.num_classes is not None and data.num_classes is None:
        raise UserError(
            f"model.num_classes={model.num_classes}: these data have no classes; expected data=mnist, data=folder "
            "data.labels=folders, or data=stream data.labels=[...]"
        )
    if model.num_classes not in (None, data.num_classes):
        raise UserError(f"model.num_classes={model.num_classes}: expected the data's {data.num_classes}")
    if data.crop is not None:
        check_crop(data.crop, data.image_size, model)
    if model.likelihood.of_noisy_images and data.target == "clean":
        raise UserError(
            "data.target=clean: likelihood=speckle is one of noisy images; expected data.target=noisy or second"
        )
    if data.target == "second" and not model.likelihood.of_noisy_images:
        raise UserError("data.target=second: a second look is noisy; expected likelihood=speckle, or data.target=clean")
