"""Rows of pictures of a model and its data: one function for each picture."""

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from saaae.data.datamodule import ImageDataModule, spread
from saaae.metrics.pixel_detection import SIGMA, smooth, squared_residual
from saaae.metrics.speckle import AMPLITUDE_FLOOR
from saaae.models.autoencoder import ImageAutoencoder
from saaae.rng import IndexedRandom
from saaae.types import Batch, Posterior
from saaae.visualization.mosaic import Row
from saaae.visualization.traversals import STEPS, kl_of_dimensions, traversals

ERROR_SHOWN = 0.5
"""Absolute error that is drawn as the brightest."""

TITLE_WIDTH = 24
"""Characters of a class's name beside its row."""

RATIO_SHOWN = 2.0
"""Ratio of intensities that is drawn as white; 1, where only speckle was removed, is middle gray."""


def reconstruction_rows(model: ImageAutoencoder, batch: Batch, posterior: Posterior, x_hat: Tensor) -> Iterator[Row]:
    """Original, input, reconstruction and error.

    Args:
        model: The model, in evaluation mode.
        batch: The images.
        posterior: That of the images.
        x_hat: Their reconstructions (B, C, H, W).
    """
    yield Row("original", batch.target)
    if batch.input is not batch.target:
        yield Row("input", batch.input)
    yield Row("reconstruction", x_hat)
    yield error_row(batch, x_hat)
    if batch.clean is not None and batch.clean is not batch.target:
        yield Row("clean reference", batch.clean)
    for name, maps in model.maps(batch, posterior).items():
        yield Row(name, maps, "viridis")


def error_row(batch: Batch, x_hat: Tensor) -> Row:
    """Absolute error of reconstructions (B, C, H, W), its mean over the channels."""
    error = (x_hat - batch.target).abs().mean(1, keepdim=True)
    return Row(f"absolute error, 0 to {ERROR_SHOWN}", error / ERROR_SHOWN, "magma")


def ratio_row(batch: Batch, x_hat: Tensor) -> Row:
    """Intensity of the input over that of the reconstruction: structure in it has been removed with the speckle."""
    ratio = batch.input**2 / x_hat.clamp_min(AMPLITUDE_FLOOR) ** 2
    return Row(f"ratio image, 0 to {RATIO_SHOWN:g}", ratio / RATIO_SHOWN)


def epoch_rows(model: ImageAutoencoder, data: ImageDataModule, batch: Batch) -> list[Row]:
    """Rows of the picture of each epoch: reconstructions, maps, images from the prior, the ratio image of radar images.

    Args:
        model: The model, in evaluation mode.
        data: Its data.
        batch: The images, on the model's device.
    """
    posterior = model.encode(batch)
    x_hat = model.decode(posterior.mode, batch)
    rows = list(reconstruction_rows(model, batch, posterior, x_hat))
    if data.domain == "radar":
        rows.append(ratio_row(batch, x_hat))
    if posterior.stochastic and model.generates:
        rows.append(Row("from the prior", model.sample(len(x_hat), batch.rng)))
    return rows


def input_rows(data: ImageDataModule, count: int) -> list[Row]:
    """Model input: training images, and test images with their masks if there are any.

    Training images use evaluation noise here, so that the picture changes no random state.

    Args:
        data: The images.
        count: Largest number of images per row.
    """
    batch = data.batch("train", spread(data, "train", count))
    rows = [Row("input", batch.input)] + ([] if batch.target is batch.input else [Row("target", batch.target)])
    if batch.clean is not None and batch.clean is not batch.target:
        rows.append(Row("clean reference", batch.clean))
    if (test := defective(data, count)) is not None:
        rows += [Row("test input", test.input), Row("test mask", (cast(Tensor, test.mask) == 1).float())]
    return rows


def defective(data: ImageDataModule, count: int, device: torch.device | str = "cpu") -> Batch | None:
    """Test tiles with a marked defect, `count` at most; None where there are none."""
    if data.batch("test", spread(data, "test", 1)).mask is None:
        return None
    indices = spread(data, "test", 16 * count)
    mask = cast(Tensor, data.batch("test", indices).mask)
    marked = (mask == 1).flatten(1).any(1).nonzero().flatten()[:count]
    return data.batch("test", indices[marked], device) if len(marked) else None


def outlined(images: Tensor, mask: Tensor) -> Tensor:
    """RGB images (B, 3, H, W) with the outline of their masks (B, 1, H, W) in red, two pixels wide."""
    marked = (mask == 1).float()
    edge = max_pool2d(marked, 5, stride=1, padding=2) - marked
    red = torch.tensor([1.0, 0.1, 0.1], device=images.device)[:, None, None]
    return torch.where(edge > 0, red, images.expand(-1, 3, -1, -1))


def fabric_rows(model: ImageAutoencoder, batch: Batch) -> list[Row]:
    """Defective tiles with their masks' outline, their reconstruction, and where its error is."""
    x_hat = model.decode(model.encode(batch).mode, batch)
    heat = smooth(squared_residual(x_hat, batch.target), SIGMA).sqrt()
    mask = cast(Tensor, batch.mask)
    heat = heat / heat.max().clamp_min(1e-12)
    return [
        Row("defects outlined", outlined(batch.target, mask)),
        Row("reconstruction", x_hat),
        Row(f"error, smoothed\nby {SIGMA:g} pixels", heat, "inferno"),
    ]


def prior_rows(model: ImageAutoencoder, device: torch.device, side: int = 8) -> list[Row]:
    """Images of latents from the prior; conditional models show the classes in turn."""
    images = model.sample(side * side, IndexedRandom(0, torch.arange(side * side, device=device)))
    return [Row("" if number else f"from {model.prior.name}", row) for number, row in enumerate(images.split(side))]


def interpolation_rows(model: ImageAutoencoder, batch: Batch, steps: int = 9) -> list[Row]:
    """Decoded straight lines between the latents of neighbouring images; a pair keeps the class of its first image."""
    z = model.encode(batch).mode
    rows = []
    for first in range(0, len(z) - 1, 2):
        share = torch.linspace(0, 1, steps, device=z.device).view(-1, *[1] * (z.dim() - 1))
        label = None if batch.label is None or not model.num_classes else batch.label[first].expand(steps)
        rows.append(Row("", model.generate(torch.lerp(z[first], z[first + 1], share), label)))
    return rows


def traversal_rows(model: ImageAutoencoder, batch: Batch, kl: Tensor, rows: int = 8, steps: int = STEPS) -> list[Row]:
    """Traversals of the first image's latent, those of the dimensions of the highest KL first.

    Args:
        model: The model, in evaluation mode.
        batch: The images.
        kl: Mean KL of each latent value (D,), in nats.
        rows: Dimensions shown, at most.
        steps: Images per row.
    """
    charged = kl_of_dimensions(model, kl)
    chosen = charged.argsort(descending=True)[:rows].tolist()
    moved = traversals(model, batch, chosen, steps)
    return [
        Row(f"{number}: {float(charged[number]):.2f} nats", images)
        for number, (_, images) in zip(chosen, moved, strict=True)
    ]


def class_rows(
    model: ImageAutoencoder, device: torch.device, names: Sequence[str] | None = None, styles: int = 10
) -> list[Row]:
    """One row per class, at most ten; each column has the same latent.

    Args:
        model: The model, in evaluation mode.
        device: Where it is.
        names: Names of the classes; None where they have none.
        styles: Number of latents.
    """
    assert model.num_classes
    like, indices = torch.empty(styles, *model.latent_shape, device=device), torch.arange(styles, device=device)
    z = model.prior.sample(like, IndexedRandom(0, indices))
    classes = range(min(10, model.num_classes))
    titles = [name[:TITLE_WIDTH] for name in names or ()] or [f"class {k}" for k in classes]
    return [Row(titles[k], model.generate(z, torch.full((styles,), k, device=device))) for k in classes]


def plane_rows(model: ImageAutoencoder, device: torch.device, side: int = 15) -> list[Row]:
    """Two latent dimensions between the 3rd and 97th percentile of the prior; of the middle class, if there are any."""
    ticks = torch.special.ndtri(torch.linspace(0.03, 0.97, side))
    z = torch.cartesian_prod(-ticks, ticks).to(device)
    middle = torch.full((len(z),), model.num_classes // 2, device=device) if model.num_classes else None
    images = model.generate(z, middle)
    return [Row(f"{-tick:+.2f}", row) for tick, row in zip(ticks.tolist(), images.split(side), strict=True)]


def final_panels(
    model: ImageAutoencoder, data: ImageDataModule, batch: Batch, kl: Tensor | None
) -> Iterator[tuple[str, list[Row]]]:
    """Name and rows of each picture of a trained model.

    Args:
        model: The model, in evaluation mode.
        data: Where the images are from.
        batch: Fixed test images, on the model's device.
        kl: Mean KL of each latent value (D,) in nats; None where it is not a sum over them.
    """
    device = batch.input.device
    if data.domain == "fabric" and (test := defective(data, 8, device)) is not None:
        yield "defects", fabric_rows(model, test)
    if not model.generates:
        return
    if len(batch.input) > 1:
        yield "interpolations", interpolation_rows(model, batch)
    if not model.encode(batch).stochastic:
        return
    yield "prior", prior_rows(model, device)
    if kl is not None:
        yield "traversals", traversal_rows(model, batch, kl)
    if model.num_classes:
        yield "classes", class_rows(model, device, data.class_names)
    if model.latent_shape == (2,) and model.prior.is_standard:
        yield "plane", plane_rows(model, device)


TITLES: Mapping[str, str] = {
    "reconstructions": "test images, z = mean",
    "defects": "test tiles with defects",
    "interpolations": "between the codes of two test images",
    "prior": "images of codes from the prior",
    "traversals": "one dimension of a code from -3 to 3, by KL",
    "classes": "a row a class, a column a code",
    "plane": "the latent plane, equal shares of the prior",
    "epochs": "validation images over the epochs, z = mean",
    "data": "model input",
    "gates": "weights of channels",
}
