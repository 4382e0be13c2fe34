"""Rate and distortion of a model as a codec: entropy-coded latents and the images decoded from them."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saaae.atomic import replacing
from saaae.data.datamodule import ImageDataModule
from saaae.errors import UserError
from saaae.evaluation.batches import Latents, batches, latents
from saaae.metrics.image import quality_of
from saaae.metrics.per_image import PerImage, summary
from saaae.metrics.rate import CodeModel, quantise
from saaae.models.autoencoder import ImageAutoencoder, evaluating
from saaae.types import Split


def rate_line(code: dict[str, Any]) -> str:
    """A printed line for one entry of `rate_distortion`."""
    names = (name for name in ("ssim", "psnr", "ssim_clean", "psnr_clean") if name in code)
    rate = f"{code['bits_per_pixel']:.4f} bits per pixel ({code['bytes']} bytes, {code['images']} images)"
    return f"codes        step {code['step']:g}: {rate}  " + "  ".join(f"{name} {code[name]:.4f}" for name in names)


def _quality(model: ImageAutoencoder, data: ImageDataModule, codes: Latents, indices: Tensor) -> dict[str, float]:
    """Mean quality of test images (N,) that are decoded from their latents."""
    z = torch.from_numpy(codes.z).float().unflatten(1, model.decoder_shape)
    label = torch.from_numpy(codes.label).long()
    scores = PerImage(sync_on_compute=False)  # one process does it all
    parts = zip(z.split(data.batch_size), label.split(data.batch_size), strict=True)
    for batch, (some, labels) in zip(batches(model, data, "test", indices), parts, strict=True):
        classes = labels.to(model.device) if model.num_classes else None
        scores.update(quality_of(model.generate(some.to(model.device), classes), batch.target, batch.clean))
    return {name: float(value) for name, value in summary(scores.compute(), spread=False).items()}


FITTED_ON = 10
"""Without validation images the coder is fitted on one in this many test images, which are then not coded."""


def rate_distortion(
    model: ImageAutoencoder, data: ImageDataModule, steps: list[float], folder: Path, tested: int | None = None
) -> list[dict[str, Any]]:
    """Rate and distortion of a model as a codec: files of the latents of test images, and the decoded images.

    Args:
        model: The model.
        data: Its data; the coder is fitted on the validation images.
        steps: Quantisation steps, in units of the largest standard deviation of a latent dimension.
        folder: Where the files `codes-<step>.bin` go.
        tested: Number of test images, the first ones; None for all.

    Returns:
        For each step the size of the file, the number of images in it, bits per pixel, and the quality of the images.

    Raises:
        UserError: If all images have the same latents.
    """
    results = []
    test = torch.arange(data.num_images("test") if tested is None else tested)
    split: Split = "val"
    fitted_on = torch.arange(data.num_images("val"))
    if not len(fitted_on):
        split, fitted_on, test = "test", test[::FITTED_ON], test[test % FITTED_ON != 0]
    with evaluating(model):
        fitted = latents(model, data, split, fitted_on)
        widest = float(fitted.z.std(0).max())
        if not widest > 0:
            raise UserError(
                f"code_steps: all {len(fitted_on)} images that the coder is fitted on have the same latents; "
                "there is nothing to code"
            )
        coded = latents(model, data, "test", test)
        for step in steps:
            size, path = widest * step, folder / f"codes-{step:g}.bin"
            coder = CodeModel.fit(quantise(fitted.z, size), model.num_classes or 1)
            content = coder.encode(quantise(coded.z, size), coded.label)
            with replacing(path) as file:
                file.write(content)
            symbols, label = coder.decode(content, len(coded.z))
            row = {"step": step, "bytes": len(content), "images": len(test)}
            row["bits_per_pixel"] = 8 * len(content) / (len(symbols) * data.image_size**2)
            results.append(row | _quality(model, data, Latents(symbols * size, label), test))
    return results
