"""From images in memory to batches on the device: one indexed read per batch, no per-sample Python."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypedDict, Unpack

import lightning as L
import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor
from torch.utils.data import DataLoader

from saaae.data.corruption import Corruption, Identity
from saaae.data.images import Images, ImageSplit, IndexedImages, Positions, RawBatch, tensor_digest, to_unit_range
from saaae.data.sampler import EpochBatches
from saaae.errors import UserError
from saaae.ranges import NonNegativeInt, PositiveInt, Runtime
from saaae.rng import GlobalRandom, IndexedRandom, RandomSource
from saaae.types import Batch, Domain, Split

SPLITS: tuple[Split, ...] = ("train", "val", "test")


class BatchLoader(DataLoader):
    """A DataLoader of whole batches; without workers it bypasses torch's iterator, a quarter of the time."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        batches = super().__iter__() if self.num_workers else (self.dataset[indices] for indices in self.sampler)
        for batch in batches:
            if isinstance(batch, UserError):
                # Not itself: it and this frame would hold each other, and with them the workers.
                raise UserError(str(batch))
            yield batch


class Serving(TypedDict):
    """How a data module serves its images.

    Attributes:
        batch_size: Images per batch.
        num_workers: Loader processes; 0 is fastest for images in memory.
        resident: Whether the images stay on the device, and only their positions are copied to it.
        seed: Seed of the splits, the order and the evaluation noise.
        corruption: Corruption of the input; the target is unchanged.
    """

    batch_size: PositiveInt
    num_workers: Runtime[NonNegativeInt]
    resident: Runtime[bool]
    seed: NonNegativeInt
    corruption: Corruption


class Manifest(TypedDict):
    """Content of the splits, and what was left out; plain values.

    Attributes:
        splits: For each split how many images or tiles it has of each source.
        sources: Digest of the content of each source.
        settings: Settings that affect the images.
        left_out: How many tiles are in no split, by reason.
        skipped: Why files were not used, by name.
        warnings: What else is suspicious about them, one line each.
    """

    splits: dict[str, dict[str, int]]
    sources: dict[str, str]
    settings: dict[str, Any]
    left_out: dict[str, int]
    skipped: dict[str, str]
    warnings: list[str]


def generated(splits: Mapping[Split, Images], what: str) -> Manifest:
    """The manifest of generated images, which have no files: their digest changes with the generator."""
    return {
        "splits": {split: {f"{split} {what}": images.size} for split, images in splits.items()},
        "sources": {f"{split} {what}": tensor_digest(images.pixels) for split, images in splits.items()},
        "settings": {},
        "left_out": {},
        "skipped": {},
        "warnings": [],
    }


class ImageDataModule(L.LightningDataModule):
    """Base of the data modules: a subclass loads splits and may override how a batch is made.

    Resuming is exact: the order is a function of (seed, epoch), and a checkpoint holds the position in it.

    Args:
        image_size: Side of the square images in pixels.
        channels: Channels of the images.
        **serving: How the images are served.
    """

    domain: Domain = "photo"
    num_classes: int | None = None
    """Number of classes of the labels; None for data without labels."""
    class_names: Sequence[str] | None = None
    """Names of the classes by their numbers; None where they have none."""
    factor_names: Sequence[str] | None = None
    """Names of the factors that an image is generated from; None where they are not known."""
    crop: int | None = None
    """Side of the squares that training sees of its images; None for whole images."""
    target: str = "noisy"
    """`clean` where reconstructions are compared with a cleaner image than the input."""
    sample_seed: int | None = None
    """Seed of the latents that a model samples in evaluation; None continues the noise of its inputs."""

    def __init__(self, *, image_size: int, channels: int, **serving: Unpack[Serving]) -> None:
        super().__init__()
        self.image_size, self.channels = image_size, channels
        self.batch_size, self.num_workers, self.seed = serving["batch_size"], serving["num_workers"], serving["seed"]
        self.resident, self.corruption = serving["resident"], serving["corruption"]
        self.splits: Mapping[Split, ImageSplit] = {}
        self._manifest: Manifest | None = None
        self._on_device: dict[Split, Images] = {}
        self._position = (0, 0)

    def load(self) -> Mapping[Split, ImageSplit]:
        raise NotImplementedError

    def describe(self) -> Manifest:
        """Content of the loaded splits: the same on every machine for the same data and seed."""
        raise NotImplementedError

    def manifest(self) -> Manifest:
        """Content of the loaded splits, computed once."""
        if self._manifest is None:
            self._manifest = self.describe()
        return self._manifest

    def factors(self, split: Split) -> Tensor:
        """The values of the factors of each image of a split (N, K), int64; of data with `factor_names`."""
        raise NotImplementedError

    def present(self, raw: RawBatch, rng: RandomSource) -> Batch:
        """Turns a raw batch on the device into input and target, before any corruption; by default the same."""
        x = to_unit_range(raw.pixels)
        return Batch(x, x, raw.indices, rng, raw.label, mask=raw.mask, fabric=raw.fabric, defect=raw.defect)

    def augmented(self, batch: Batch) -> Batch:
        """A training batch on the device, before any corruption, changed at random; by default as it is."""
        return batch

    def setup(self, stage: str | None = None) -> None:
        if not self.splits:
            self.splits = self.load()

    def num_images(self, split: Split) -> int:
        return self.splits[split].size

    def split_hash(self) -> str:
        """Digest of the manifest: equal hashes mean equal images in equal splits, before any noise."""
        manifest = self.manifest()
        content = {key: manifest[key] for key in ("splits", "sources", "settings")}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def rng(self, indices: Tensor, split: Split) -> RandomSource:
        """The noise of a batch: the run's own state in training, a function of (seed, index) elsewhere."""
        return GlobalRandom() if split == "train" else IndexedRandom(self.seed, indices, SPLITS.index(split))

    def batch(
        self, split: Split, indices: Tensor, device: torch.device | str = "cpu", without_defects: bool = False
    ) -> Batch:
        """The batch of chosen images, with evaluation noise: for pictures and tests.

        Args:
            split: The split.
            indices: Positions in it (B,).
            device: Where the batch is made.
            without_defects: Whether to leave out a corruption that makes defects, to look for real ones.
        """
        raw = move_data_to_device(self.splits[split].take(indices), torch.device(device))
        rng = IndexedRandom(self.seed, raw.indices, SPLITS.index(split))
        return self._feed(self.present(raw, rng), without_defects and self.corruption.makes_defects)

    def on_after_batch_transfer(self, batch: RawBatch | Tensor, dataloader_idx: int) -> Batch:
        """Conversion and corruption, on the device."""
        assert self.trainer is not None
        split: Split = "train" if self.trainer.training else "test" if self.trainer.testing else "val"
        if isinstance(batch, Tensor):
            if split not in self._on_device:
                images = self.splits[split]
                assert isinstance(images, Images), "only images in memory can be resident"
                self._on_device[split] = images.on(batch.device)
            batch = self._on_device[split].take(batch)
        presented = self.present(batch, self.rng(batch.indices, split))
        return self._feed(self.augmented(presented) if split == "train" else presented)

    def _feed(self, batch: Batch, as_it_is: bool = False) -> Batch:
        if not isinstance(self.corruption, Identity) and not as_it_is:
            batch = batch._replace(input=self.corruption(batch.input, batch.rng))
        if self.sample_seed is not None and isinstance(batch.rng, IndexedRandom):
            batch = batch._replace(rng=IndexedRandom(self.sample_seed, batch.indices, len(SPLITS)))
        return batch

    def _batches(self, split: Split, seed: int | None, rank: int, num_processes: int) -> EpochBatches:
        return EpochBatches(self.num_images(split), self.batch_size, seed, rank, num_processes)

    def _loader(self, split: Split, shuffle: bool) -> DataLoader:
        rank, processes = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        batches = self._batches(split, self.seed if shuffle else None, rank, processes)
        if shuffle:
            batches.epoch, batches.start = self._position
        return BatchLoader(
            Positions(self.num_images(split)) if self.resident else IndexedImages(self.splits[split]),
            sampler=batches,
            batch_size=None,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            # starting an iterator must not draw from the run's random state
            generator=torch.Generator().manual_seed(self.seed),
        )

    def train_dataloader(self) -> DataLoader:
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return self._loader("val", shuffle=False)

    def test_dataloader(self) -> DataLoader:
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


def spread(data: ImageDataModule, split: Split, count: int) -> Tensor:
    """Indices of `count` fixed images, spread evenly over a split."""
    size = data.num_images(split)
    return torch.linspace(0, size - 1, min(count, size)).long()
