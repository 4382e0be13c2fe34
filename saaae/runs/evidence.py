"""What a trained model is asked beside its test: whether its importance map matters, and what its codes really cost."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from saaae.atomic import replacing
from saaae.callbacks.panels import spread
from saaae.data.datamodule import ImageDataModule
from saaae.data.folder import CachedFiles
from saaae.errors import UserError
from saaae.metrics.anomaly import squared_residual
from saaae.metrics.deletion import displaced, highest, ssim_without
from saaae.metrics.image import quality_of, reconstruction_quality
from saaae.metrics.intervals import mean_interval
from saaae.metrics.per_image import PerImage, summary
from saaae.metrics.rate import CodeModel, quantise
from saaae.models.autoencoder import ImageAutoencoder, LatentChoice, evaluating
from saaae.runs.anomaly import detect
from saaae.types import Batch, Split

HIDDEN = (0.1, 0.25, 0.5)
"""Shares of the code that the deletion test hides."""
DELETION_IMAGES, RANDOM_DRAWS = 64, 2
"""Test images of the deletion test, and random displacements of the map of each."""


def batches(model: ImageAutoencoder, data: ImageDataModule, split: Split, indices: Tensor) -> Iterator[Batch]:
    """Chosen images of a split in batches, on the model's device, with what the model observes of them."""
    for part in indices.split(data.batch_size):
        yield model.observe(data.batch(split, part, model.device))


def _deletion_losses(model: ImageAutoencoder, batch: Batch) -> Tensor | None:
    """SSIM lost by each image (shares, 2, B): with the most important cells hidden, and with those elsewhere."""
    posterior = model.encode(batch)
    importance = model.importance(posterior)
    if importance is None:
        return None
    z, ties = posterior.mode, batch.noise.uniform(importance).flatten(1)
    elsewhere = [displaced(importance, batch.noise.uniform(importance)) for _ in range(RANDOM_DRAWS)]
    whole = reconstruction_quality(model.decode(z, batch), batch.target)["ssim"]

    def lost(scores: Tensor, share: float) -> Tensor:
        cells = highest(scores.flatten(1), share, ties)
        return whole - ssim_without(lambda z: model.decode(z, batch), z, cells, batch.target)

    losses = []
    for share in HIDDEN:
        control = torch.stack([lost(scores, share) for scores in elsewhere]).mean(0)
        losses.append(torch.stack([lost(importance, share), control]))
    return torch.stack(losses)


def deletion_test(model: ImageAutoencoder, data: ImageDataModule) -> dict[str, Any] | None:
    """Whether hiding the most important cells of the code costs more SSIM than hiding as many elsewhere.

    Returns:
        Plain values: for each share of HIDDEN the mean SSIM lost, and the mean difference with its 95 % interval over
        images; None for a model without importance.
    """
    indices = spread(data, "test", DELETION_IMAGES)
    with evaluating(model):
        parts = [_deletion_losses(model, batch) for batch in batches(model, data, "test", indices)]
    if not parts or parts[0] is None:
        return None
    losses = torch.cat([part for part in parts if part is not None], 2).double().cpu().numpy()
    differences = [mean_interval((important - control).tolist()) for important, control in losses]
    return {
        "images": len(indices),
        "hidden_share": list(HIDDEN),
        "ssim_lost_important": losses[:, 0].mean(1).tolist(),
        "ssim_lost_elsewhere": losses[:, 1].mean(1).tolist(),
        "difference": [mean for mean, _ in differences],
        "half_width_95": [half for _, half in differences],
    }


def detection(model: ImageAutoencoder, data: ImageDataModule, latents: LatentChoice = "mean") -> dict[str, Any] | None:
    """Detection of defects by the squared error of reconstructions, see `detect`; None for data other than fabric."""
    if data.field != "fabric" or not isinstance(data, CachedFiles):
        return None
    with evaluating(model):
        return detect(
            lambda batch: squared_residual(model.reconstruct(batch, latents), batch.target), data, device=model.device
        )


def detection_scores(found: dict[str, Any]) -> dict[str, float]:
    """The numbers that stand for a detection among the test metrics; those that are not known are left out."""
    scores = {
        "tile_auroc": found["tile"]["auroc"],
        "tile_ap": found["tile"]["average_precision"],
        "image_auroc": found["image"]["auroc"],
        **{name: found["pixel"][name] for name in ("pixel_auroc", "pixel_ap", "aupro_30", "aupro_05")},
        "recall": found["threshold"]["recall"],
        "false_alarm_rate": found["threshold"]["false_alarm_rate"],
    }
    return {name: value for name, value in scores.items() if math.isfinite(value)}


def code_line(code: dict[str, Any]) -> str:
    """What `coded` found for one step, in words."""
    names = (name for name in ("ssim", "psnr", "ssim_clean", "psnr_clean") if name in code)
    rate = f"{code['bits_per_pixel']:.4f} bits per pixel ({code['bytes']} bytes, {code['images']} images)"
    return f"codes        step {code['step']:g}: {rate}  " + "  ".join(f"{name} {code[name]:.4f}" for name in names)


class Codes(NamedTuple):
    """What a decoder is told of the images of a split.

    Attributes:
        z: Posterior means (N, D), float64.
        label: Classes (N,), int32; zeros for a model without.
    """

    z: np.ndarray
    label: np.ndarray


def _codes(model: ImageAutoencoder, data: ImageDataModule, split: Split, indices: Tensor) -> Codes:
    found = []
    for batch in batches(model, data, split, indices):
        z = model.encode(batch).mode.flatten(1)
        found.append((z, batch.label if model.num_classes and batch.label is not None else z.new_zeros(len(z))))
    codes, labels = (torch.cat(part).cpu().numpy() for part in zip(*found, strict=True))
    return Codes(codes.astype(np.float64), labels.astype(np.int32))


def _quality(model: ImageAutoencoder, data: ImageDataModule, codes: Codes, indices: Tensor) -> dict[str, float]:
    """Mean quality of test images (N,) that are decoded from their codes."""
    z, label = torch.from_numpy(codes.z).float().unflatten(1, model.latent_shape), torch.from_numpy(codes.label).long()
    scores = PerImage(sync_on_compute=False)  # one process does it all
    parts = zip(z.split(data.batch_size), label.split(data.batch_size), strict=True)
    for batch, (some, labels) in zip(batches(model, data, "test", indices), parts, strict=True):
        classes = labels.to(model.device) if model.num_classes else None
        scores.update(quality_of(model.generate(some.to(model.device), classes), batch.target, batch.clean))
    return {name: float(value) for name, value in summary(scores.compute(), spread=False).items()}


FITTED_ON = 10
"""Without validation images the model of the codes is fitted on one test image in so many, which is not coded."""


def coded(
    model: ImageAutoencoder, data: ImageDataModule, steps: list[float], folder: Path, tested: int | None = None
) -> list[dict[str, Any]]:
    """Real rate and distortion of a model as a codec: files of the codes of test images, and what they decode to.

    Args:
        model: The model.
        data: Its data; the model of the codes is fitted on the validation images.
        steps: Quantisation steps, in units of the largest standard deviation of a latent dimension.
        folder: Where the files `codes-<step>.bin` go.
        tested: Number of test images, the first ones; None for all.

    Returns:
        For each step the size of the file, the number of images in it, bits per pixel, and the quality of the images.

    Raises:
        UserError: If the codes of all images are the same.
    """
    found = []
    test = torch.arange(data.num_images("test") if tested is None else tested)
    split: Split = "val"
    fitted_on = torch.arange(data.num_images("val"))
    if not len(fitted_on):
        split, fitted_on, test = "test", test[::FITTED_ON], test[test % FITTED_ON != 0]
    with evaluating(model):
        fitted = _codes(model, data, split, fitted_on)
        widest = float(fitted.z.std(0).max())
        if not widest > 0:
            raise UserError(
                f"code_steps: the codes of all {len(fitted_on)} images that the coder is fitted on are the same; "
                "there is nothing to code"
            )
        codes = _codes(model, data, "test", test)
        for step in steps:
            size, path = widest * step, folder / f"codes-{step:g}.bin"
            coder = CodeModel.fit(quantise(fitted.z, size), model.num_classes or 1)
            content = coder.encode(quantise(codes.z, size), codes.label)
            with replacing(path) as file:
                file.write(content)
            symbols, label = coder.decode(content, len(codes.z))
            bits = 8 * len(content) / (len(symbols) * data.image_size**2)
            quality = _quality(model, data, Codes(symbols * size, label), test)
            found.append({"step": step, "bytes": len(content), "images": len(test), "bits_per_pixel": bits, **quality})
    return found
