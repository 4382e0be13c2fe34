"""The one path from images in memory to batches on the device: one indexed read a batch, no per-sample Python."""

import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from saaae.data.corruption import Corruption, Identity
from saaae.noise import IndexedNoise, Noise, TrainingNoise
from saaae.types import Batch, Split

SPLITS: tuple[Split, ...] = ("train", "val", "test")


class Images(NamedTuple):
    """One split in memory.

    Attributes:
        pixels: (N, C, H, W), uint8 with 255 for 1.0, or float32 in [0, 1].
        labels: Classes (N,), int64, or None.
    """

    pixels: Tensor
    labels: Tensor | None = None


class RawBatch(NamedTuple):
    """What crosses from memory to the device: small, and converted there."""

    pixels: Tensor
    indices: Tensor
    label: Tensor | None


class IndexedImages(Dataset[RawBatch]):
    """Serves the images of a whole index tensor (B,) at once."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images.pixels)

    def __getitem__(self, indices: Tensor) -> RawBatch:
        labels = self.images.labels
        return RawBatch(self.images.pixels[indices], indices, None if labels is None else labels[indices])


class EpochBatches(Sampler[Tensor]):
    """Batches of indices whose order is a function of (seed, epoch), starting anywhere in an epoch.

    Args:
        size: Number of images.
        batch_size: Images a batch; the last one may be smaller.
        seed: Seed of the order; None keeps the images in order.
    """

    def __init__(self, size: int, batch_size: int, seed: int | None) -> None:
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.epoch, self.start = 0, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch; a new epoch starts at its first batch."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def __len__(self) -> int:
        return -(-self.size // self.batch_size)  # of the whole epoch: Lightning counts batches by it

    def __iter__(self) -> Iterator[Tensor]:
        order = torch.arange(self.size)
        if self.seed is not None:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
            order = torch.randperm(self.size, generator=generator)
        start, self.start = self.start, 0
        yield from order.split(self.batch_size)[start:]


def to_unit_range(pixels: Tensor) -> Tensor:
    """Float32 images in [0, 1]: uint8 divided by 255, floats as they are."""
    return pixels.float() / 255.0 if pixels.dtype == torch.uint8 else pixels.float()


class ImageDataModule(L.LightningDataModule):
    """Base of the data modules: a subclass loads splits and, where it likes, states what the model is fed.

    Resuming is exact: the order is a function of (seed, epoch), and a checkpoint holds the position in it.

    Args:
        image_size: Side of the square images in pixels.
        channels: Channels of the images.
        batch_size: Images a batch.
        num_workers: Loader processes; 0 is fastest for images in memory.
        seed: Seed of the splits, the order and the evaluation noise.
        corruption: What happens to the input on its way to the model; the target stays as it is.
    """

    def __init__(
        self, *, image_size: int, channels: int, batch_size: int, num_workers: int, seed: int, corruption: Corruption
    ) -> None:
        super().__init__()
        self.corruption = corruption
        self.image_size, self.channels = image_size, channels
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.splits: dict[Split, Images] = {}
        self._position = (0, 0)

    def load(self) -> dict[Split, Images]:
        """Reads or generates all splits."""
        raise NotImplementedError

    def present(self, raw: RawBatch, noise: Noise) -> Batch:
        """Turns a raw batch on the device into input and target, before any corruption; by default the same."""
        x = to_unit_range(raw.pixels)
        return Batch(x, x, raw.indices, noise, raw.label)

    def setup(self, stage: str | None = None) -> None:
        """Loads the splits, once."""
        if not self.splits:
            self.splits = self.load()

    def num_images(self, split: Split) -> int:
        """Size of a split."""
        return len(self.splits[split].pixels)

    def split_hash(self) -> str:
        """Digest of every split's pixels: equal hashes mean equal data and equal splits."""
        digest = hashlib.sha256()
        for name in SPLITS:
            digest.update(f"{name} {tuple(self.splits[name].pixels.shape)}".encode())
            digest.update(self.splits[name].pixels.contiguous().numpy().data)
        return digest.hexdigest()[:16]

    def noise(self, indices: Tensor, split: Split) -> Noise:
        """The noise of a batch: the run's own state in training, (seed, index) alone elsewhere."""
        return TrainingNoise() if split == "train" else IndexedNoise(self.seed, indices, SPLITS.index(split))

    def batch(self, split: Split, indices: Tensor, device: torch.device | str = "cpu") -> Batch:
        """The batch of chosen images, with evaluation noise: for pictures and tests."""
        raw = IndexedImages(self.splits[split])[indices]
        label = None if raw.label is None else raw.label.to(device)
        raw = RawBatch(raw.pixels.to(device), raw.indices.to(device), label)
        return self._feed(raw, IndexedNoise(self.seed, raw.indices, SPLITS.index(split)))

    def on_after_batch_transfer(self, batch: RawBatch, dataloader_idx: int) -> Batch:
        """Conversion and corruption, on the device."""
        assert self.trainer is not None
        split: Split = "train" if self.trainer.training else "test" if self.trainer.testing else "val"
        return self._feed(batch, self.noise(batch.indices, split))

    def _feed(self, raw: RawBatch, noise: Noise) -> Batch:
        batch = self.present(raw, noise)
        if isinstance(self.corruption, Identity):
            return batch
        return batch._replace(input=self.corruption(batch.input, noise))

    def _loader(self, split: Split, shuffle: bool) -> DataLoader:
        batches = EpochBatches(self.num_images(split), self.batch_size, self.seed if shuffle else None)
        if shuffle:
            batches.epoch, batches.start = self._position
        return DataLoader(
            IndexedImages(self.splits[split]),
            sampler=batches,
            batch_size=None,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            generator=torch.Generator().manual_seed(self.seed),  # starting an iterator must not touch the run's state
        )

    def train_dataloader(self) -> DataLoader:
        """Shuffled anew each epoch."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader:
        """In order."""
        return self._loader("val", shuffle=False)

    def test_dataloader(self) -> DataLoader:
        """In order."""
        return self._loader("test", shuffle=False)

    def state_dict(self) -> dict[str, Any]:
        """The next batch to serve.

        A checkpoint may be written at the end of a training epoch (its counters are closed), in a validation after
        the last batch (not closed yet), or in between.
        """
        assert self.trainer is not None
        loop = self.trainer.fit_loop
        epoch: Any = loop.epoch_progress.current
        batches = loop.epoch_loop.batch_progress.current.ready
        if epoch.processed == epoch.ready:
            return {"epoch": epoch.processed, "batch": 0}
        if batches >= self.trainer.num_training_batches:
            return {"epoch": epoch.processed + 1, "batch": 0}
        return {"epoch": epoch.processed, "batch": batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Runs before the loaders are built: Lightning starts the resumed epoch's iterator before any hook."""
        self._position = (state_dict["epoch"], state_dict["batch"])
