"""A trained model that takes images as users have them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from saaae.config.settings import plain
from saaae.data.datamodule import ImageDataModule
from saaae.data.listing import class_number, known_classes
from saaae.errors import UserError
from saaae.evaluation.scoring import FINE_SIGMA
from saaae.inference.arrays import ImageLike, pad_to_multiple, to_images
from saaae.inference.source import CheckpointName, Source, read_source
from saaae.metrics.pixel_detection import SIGMA, smooth
from saaae.models.autoencoder import ImageAutoencoder, LatentChoice
from saaae.rng import IndexedRandom
from saaae.runs.checkpoints import load_state
from saaae.runs.exported import is_exported
from saaae.training.build import instantiated, load_data, prepared
from saaae.training.memory import within_memory
from saaae.types import Batch, Domain, Posterior

Labels = int | str | Sequence[int | str] | Tensor | None
"""Classes by number or by name."""


class TrainedModel(nn.Module):
    """A trained autoencoder in evaluation mode.

    Images are arrays or tensors (H, W), (C, H, W) or (B, C, H, W): uint8 (255 becomes 1.0), uint16 (65535 becomes 1.0)
    or floats in [0, 1]. A model with a latent map takes images of any size, one with a latent vector those of its own
    size only. Results are float32 tensors on the model's device, computed without gradients.

    Args:
        network: The torch model, with its weights.
        source: Where it comes from.

    Attributes:
        network: The torch model.
        config: Configuration of its run, as plain nested dictionaries.
        metrics: Test metrics of its run by name; empty if unknown.
        domain: `photo`, `radar` or `fabric`: what its training data are.
        class_names: Names of the classes of a conditional model by their numbers; None where they have none.
        image_size: Side of its training images in pixels.
        channels: Channels of its images.
    """

    def __init__(self, network: ImageAutoencoder, source: Source) -> None:
        super().__init__()
        self.network = network
        self.config: dict[str, Any] = plain(source.config, resolve=True)
        self.metrics = dict(source.metrics)
        self.path = source.path
        self.domain: Domain = getattr(get_class(self.config["data"]["_target_"]), "domain", "photo")
        names = self.config["data"].get("labels")
        self.class_names: list[str] | None = names if network.num_classes and isinstance(names, list) else None
        self.image_size, self.channels = (self.config["model"][key] for key in ("image_size", "image_channels"))
        self.eval()

    @property
    def device(self) -> torch.device:
        return self.network.device

    @property
    def stride(self) -> int | None:
        """Pixels per side of a latent cell: the sides of images are multiples of it; None with a latent vector."""
        latent = self.network.latent_shape
        return self.image_size // latent[1] if len(latent) == 3 else None

    @property
    def sigma(self) -> float:
        """Smoothing of anomaly maps in pixels: their standard deviation in the tests of detection."""
        return FINE_SIGMA if self.network.marks else SIGMA

    def forward(self, images: ImageLike, label: Labels = None) -> Tensor:
        """Reconstructions (B, C, H, W) in [0, 1]."""
        return self.reconstruct(images, label)

    @torch.no_grad()
    def encode(self, images: ImageLike, label: Labels = None) -> Posterior:
        """Posterior q(z|x) of the latents, with `mode`, `rsample`, `kl`, `variance`.

        Args:
            images: See the class.
            label: Class of each image, by number or name, for a conditional model.

        Raises:
            UserError: If the images or labels do not fit the model.
        """
        x = self.to_images(images)
        self._check_size(x, exact=True)
        return self.network.encode(self._batch(x, label))

    @torch.no_grad()
    def reconstruct(
        self, images: ImageLike, label: Labels = None, latents: LatentChoice = "mean", batch_size: int = 64
    ) -> Tensor:
        """Reconstructions (B, C, H, W) in [0, 1].

        Args:
            images: See the class.
            label: Class of each image, by number or name, for a conditional model.
            latents: `mean` of the posterior, or one `sample` of it.
            batch_size: Images that are processed together.

        Raises:
            UserError: If the images or labels do not fit the model.
        """
        return self._by_batches(images, label, lambda batch: self.network.reconstruct(batch, latents), batch_size)

    @torch.no_grad()
    def sample(self, n: int, label: int | str | None = None, seed: int = 0) -> Tensor:
        """Images (n, C, H, W) in [0, 1] decoded from latents of the model's prior.

        Args:
            n: Number of images.
            label: Class of all of them, by number or name; None takes the classes of a conditional model in turn.
            seed: Equal seeds give equal images.

        Raises:
            UserError: If the model has no prior, or not that class.
        """
        name = type(self.network).__name__
        if not (self.network.generates and self.network.is_variational):
            raise UserError(f"a {name} has no prior to sample from")
        if n < 1:
            raise UserError(f"n={n}: expected at least 1")
        number = None if label is None else self.class_number(label)
        return self.network.sample(n, IndexedRandom(seed, torch.arange(n, device=self.device)), number)

    def class_number(self, label: int | str) -> int:
        """Number of a class that is given by its number or its name.

        Raises:
            UserError: If the model has no such class.
        """
        if not self.network.num_classes:
            raise UserError(f"label={label}: a {type(self.network).__name__} has no classes")
        return class_number(label, self.network.num_classes, self.class_names)

    @torch.no_grad()
    def anomaly_map(self, images: ImageLike, label: Labels = None, sigma: float | None = None) -> Tensor:
        """Smoothed anomaly map (B, 1, H, W): the squared reconstruction error, or what the model marks itself.

        Args:
            images: See the class.
            label: Class of each image, by number or name, for a conditional model.
            sigma: Standard deviation of the smoothing in pixels; None is that of the model's kind.

        Raises:
            UserError: If the images or labels do not fit the model.
        """
        found = self._by_batches(images, label, self.network.anomaly_map)
        return smooth(found, self.sigma if sigma is None else sigma)

    def _by_batches(
        self, images: ImageLike, label: Labels, compute: Callable[[Batch], Tensor], batch_size: int = 64
    ) -> Tensor:
        """What is computed of images whose sides were padded to multiples of the stride, without the padding."""
        x = self.to_images(images)
        self._check_size(x, exact=False)
        height, width = x.shape[-2:]
        padded = pad_to_multiple(x, self.stride) if self.stride else x
        return torch.cat([compute(batch) for batch in self._batches(padded, label, batch_size)])[..., :height, :width]

    @torch.no_grad()
    def importance(self, images: ImageLike, label: Labels = None) -> Tensor:
        """What each latent cell tells of its image, in nats: (B, 1, h, w) of a latent map, (B, D) of a vector.

        It is the KL of the cell to the prior, summed over its channels.

        Args:
            images: See the class.
            label: Class of each image, by number or name, for a conditional model.

        Raises:
            UserError: If the model's KL is not a sum over dimensions, or the images or labels do not fit it.
        """
        importance = self.network.importance(self.encode(images, label))
        if importance is None:
            raise UserError(
                f"a {type(self.network).__name__} has no importance map with its posterior; "
                "expected posterior=diagonal, anchored or anchored_prior"
            )
        return importance

    @torch.no_grad()
    def anchor(self, images: ImageLike, label: Labels = None) -> Tensor:
        """The map by which a SAAAE reduces its noise: (B, 1, h, w) of a latent map, (B, D) of a vector, in [0, cap].

        Args:
            images: See the class.
            label: Class of each image, by number or name, for a conditional model.

        Raises:
            UserError: If the model has no such map, or the images or labels do not fit it.
        """
        anchor = self.network.anchor(self.encode(images, label))
        if anchor is None:
            raise UserError(f"a {type(self.network).__name__} has no anchor with its posterior; expected a model=saaae")
        return anchor

    @property
    def has_data(self) -> bool:
        """Whether the data of its run are known: not of an exported model."""
        return not is_exported(self.path)

    def data(self) -> ImageDataModule:
        """The loaded data of its run; `data.batch("test", torch.arange(8))` gives images.

        Raises:
            UserError: If they are not known or cannot be read.
        """
        if not self.has_data:
            raise UserError(f"{self.path}: an exported model has no data; load its run folder instead")
        return load_data(OmegaConf.create(self.config), self.network)

    def to_images(self, images: ImageLike) -> Tensor:
        """Images as the model takes them: float32 (B, C, H, W) in [0, 1], on its device.

        Raises:
            UserError: Naming what was expected.
        """
        return to_images(images, self.channels, self.device)

    def _check_size(self, x: Tensor, exact: bool) -> None:
        """Raises UserError if the model cannot take images of this size; `exact`: without padding."""
        height, width = x.shape[-2:]
        if self.stride is None and (height, width) != (self.image_size, self.image_size):
            raise UserError(
                f"images: {height} x {width} pixels; expected {self.image_size} x {self.image_size}, "
                "the latent of this model is a vector (saaae predict cuts larger images into tiles)"
            )
        if exact and self.stride and (height % self.stride or width % self.stride):
            raise UserError(f"images: {height} x {width} pixels; expected sides that are multiples of {self.stride}")

    def _batch(self, x: Tensor, label: Labels, first: int = 0) -> Batch:
        indices = torch.arange(first, first + len(x), device=self.device)
        return Batch(x, x, indices, IndexedRandom(0, indices), self._labels(label, len(x)))

    def _batches(self, x: Tensor, label: Labels, batch_size: int) -> list[Batch]:
        labels = self._labels(label, len(x))
        starts = range(0, len(x), batch_size)
        return [
            self._batch(x[i : i + batch_size], None if labels is None else labels[i : i + batch_size], i)
            for i in starts
        ]

    def _labels(self, label: Labels, count: int) -> Tensor | None:
        classes = self.network.num_classes
        if label is None:
            if classes:
                known = known_classes(classes, self.class_names)
                raise UserError(f"label: this model is conditional; expected the class of each image, {known}")
            return None
        if not classes:
            raise UserError(f"label: a {type(self.network).__name__} has no classes")
        if isinstance(label, str):
            label = self.class_number(label)
        elif not isinstance(label, int | Tensor):
            label = [self.class_number(each) for each in label]
        labels = torch.as_tensor(label, device=self.device, dtype=torch.int64).flatten()
        if len(labels) not in (1, count) or labels.min() < 0 or labels.max() >= classes:
            raise UserError(f"label={label}: expected one class, or {count}, from 0 to {classes - 1}")
        return labels.expand(count)


def load_model(
    path: Path, device: str | torch.device = "cpu", checkpoint: CheckpointName = "best", trust: Sequence[str] = ()
) -> TrainedModel:
    """The trained model of a run folder, checkpoint or exported folder, see `saaae.load`."""
    source = read_source(path, checkpoint, trust)
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError):
        backends = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        here = ["cpu", *(name for name, is_here in backends.items() if is_here)]
        raise UserError(f"device={device}: not available on this machine; expected {' or '.join(here)}") from None
    return TrainedModel(build_network(source).to(place), source)


def build_network(source: Source) -> ImageAutoencoder:
    """The torch model of a source, with its weights, in the precision of its run.

    Raises:
        UserError: If a part refuses its settings, or the weights are of another model.
    """
    config: DictConfig = source.config.copy()
    with within_memory(config, "model"):
        network = instantiated(config.model)
    if "accelerator" in config:
        config.accelerator.compile = config.accelerator.activation_checkpointing = False
        network = prepared(network, config)
    load_state(network, source.weights, source.path)
    return network
