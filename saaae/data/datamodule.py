"""The one path from images in memory to batches on the device: one indexed read a batch, no per-sample Python."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any, NamedTuple, TypedDict, Unpack

import lightning as L
import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from saaae.data.corruption import Corruption, Identity
from saaae.errors import UserError
from saaae.noise import IndexedNoise, Noise, TrainingNoise
from saaae.ranges import NonNegativeInt, PositiveInt
from saaae.types import Batch, Field, Split

SPLITS: tuple[Split, ...] = ("train", "val", "test")
UNKNOWN_LABEL, UNKNOWN_MASK = -1, 255


class Masks(NamedTuple):
    """Pixel masks of images, of which most share the empty one.

    Attributes:
        masks: (K, 1, H, W), uint8: 1 where there is a defect, UNKNOWN_MASK where nobody knows.
        row: Which mask each image has (N,), int64.
    """

    masks: Tensor
    row: Tensor


class RawBatch(NamedTuple):
    """What crosses from memory to the device: small, and converted there. Fields as in `Images`, one row an image."""

    pixels: Tensor
    indices: Tensor
    label: Tensor | None = None
    reference: Tensor | None = None
    mask: Tensor | None = None
    fabric: Tensor | None = None
    defect: Tensor | None = None
    window: Tensor | None = None


class Images(NamedTuple):
    """One split in memory, or mapped from disk.

    Attributes:
        pixels: (N, C, H, W), uint8 with 255 for 1.0, or float32 in [0, 1].
        label: Classes (N,), int64, or None; UNKNOWN_LABEL where nobody knows.
        reference: Cleaner images of the same scenes (N, C, H, W), or None.
        masks: Pixel masks, or None.
        fabric: Code of each image's fabric (N,), int64, or None.
        defect: Code of the defect on the whole strip that an image is from (N,), int64, 0 for none; or None.
        window: A homogeneous rectangle of each image, as in `Batch`, or None.
        rows: Which of the N images are in the split (M,), int64; None for all. Splits share what they are rows of.
    """

    pixels: Tensor
    label: Tensor | None = None
    reference: Tensor | None = None
    masks: Masks | None = None
    fabric: Tensor | None = None
    defect: Tensor | None = None
    window: Tensor | None = None
    rows: Tensor | None = None

    @property
    def size(self) -> int:
        """Images in the split."""
        return len(self.pixels if self.rows is None else self.rows)

    def take(self, indices: Tensor) -> RawBatch:
        """The images at positions (B,) of the split."""
        rows = indices if self.rows is None else self.rows[indices]
        label, reference, fabric, defect, window = (
            None if field is None else field.index_select(0, rows)
            for field in (self.label, self.reference, self.fabric, self.defect, self.window)
        )
        mask = None if self.masks is None else self.masks.masks.index_select(0, self.masks.row[rows])
        # Copies whole images: several times faster than pixels[rows].
        return RawBatch(self.pixels.index_select(0, rows), indices, label, reference, mask, fabric, defect, window)

    def on(self, device: torch.device) -> "Images":
        """The split's own images on a device."""
        everything, masks = torch.arange(self.size), self.masks
        own = self._replace(masks=None).take(everything)
        if masks is not None:
            used, row = masks.row[everything if self.rows is None else self.rows].unique(return_inverse=True)
            masks = Masks(masks.masks[used], row)
        images = Images(own.pixels, own.label, own.reference, masks, own.fabric, own.defect, own.window)
        return move_data_to_device(images, device)


class IndexedImages(Dataset[RawBatch | UserError]):
    """Serves the images of a whole index tensor (B,) at once; a mistake of the user as itself, to keep it one line."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __len__(self) -> int:
        return self.images.size

    def __getitem__(self, indices: Tensor) -> RawBatch | UserError:
        try:
            return self.images.take(indices)
        except UserError as error:  # raised in a worker it would come with the worker's stack trace
            return error


class Positions(Dataset[Tensor]):
    """Serves index tensors as they are: the images wait on the device."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, indices: Tensor) -> Tensor:
        return indices


class EpochBatches(Sampler[Tensor]):
    """Batches of indices whose order is a function of (seed, epoch), starting anywhere in an epoch.

    Several processes share the images of each step. Shuffled for training, they get equally many batches of equal
    sizes, so an epoch leaves out up to one image fewer than there are processes; in order, every image comes once.

    Args:
        size: Number of images.
        batch_size: Images a batch of one process; the last one may be smaller.
        seed: Seed of the order; None keeps the images in order.
        rank: Number of this process.
        num_processes: How many there are.
    """

    def __init__(self, size: int, batch_size: int, seed: int | None, rank: int = 0, num_processes: int = 1) -> None:
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.rank, self.num_processes = rank, num_processes
        self.epoch, self.start = 0, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch; a new epoch starts at its first batch."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def __len__(self) -> int:
        full, rest = divmod(self.size, self.batch_size * self.num_processes)
        last = rest > self.rank if self.seed is None else rest >= self.num_processes
        return full + last  # of the whole epoch: Lightning counts batches by it

    def __iter__(self) -> Iterator[Tensor]:
        start, self.start = self.start, 0
        for step in self.steps(start):
            shared = len(step) if self.seed is None else len(step) - len(step) % self.num_processes
            yield step[self.rank : shared : self.num_processes]

    def steps(self, start: int) -> Iterator[Tensor]:
        """What all processes share at each step of the epoch, from one step on."""
        order = torch.arange(self.size)
        if self.seed is not None:
            order = torch.randperm(self.size, generator=self.generator())
        yield from order.split(self.batch_size * self.num_processes)[start : len(self)]

    def generator(self) -> torch.Generator:
        """Random numbers of the epoch."""
        assert self.seed is not None
        return torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)


class BatchLoader(DataLoader):
    """A DataLoader of whole batches that spares its own machinery, a quarter of the time, where it has no workers."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        batches = super().__iter__() if self.num_workers else (self.dataset[indices] for indices in self.sampler)
        for batch in batches:
            if isinstance(batch, UserError):
                # Not itself: it and this frame would hold each other, and with them the workers.
                raise UserError(str(batch))
            yield batch


def to_unit_range(pixels: Tensor) -> Tensor:
    """Float32 images in [0, 1]: uint8 divided by 255, floats as they are."""
    return pixels.float().div_(255.0) if pixels.dtype == torch.uint8 else pixels.float()


class Serving(TypedDict):
    """How a data module serves its images.

    Attributes:
        batch_size: Images a batch.
        num_workers: Loader processes; 0 is fastest for images in memory.
        resident: Whether the images stay on the device, and only their positions cross to it.
        seed: Seed of the splits, the order and the evaluation noise.
        corruption: What happens to the input on its way to the model; the target stays as it is.
    """

    batch_size: PositiveInt
    num_workers: NonNegativeInt
    resident: bool
    seed: NonNegativeInt
    corruption: Corruption


class Manifest(TypedDict):
    """What the splits are made of, and what is in none of them; plain values.

    Attributes:
        splits: For each split how many images or tiles it has of each source.
        sources: Digest of the content of each source.
        settings: What decides, beside the sources, what the images are.
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


def tensor_digest(tensor: Tensor) -> str:
    """Digest of a tensor's shape and content."""
    digest = hashlib.blake2b(f"{tuple(tensor.shape)} {tensor.dtype}".encode(), digest_size=12)
    digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


class ImageDataModule(L.LightningDataModule):
    """Base of the data modules: a subclass loads splits and, where it likes, states what the model is fed.

    Resuming is exact: the order is a function of (seed, epoch), and a checkpoint holds the position in it.

    Args:
        image_size: Side of the square images in pixels.
        channels: Channels of the images.
        **serving: How the images are served.
    """

    field: Field = "photo"
    sample_seed: int | None = None
    """Seed of the latents that a model samples in evaluation; None draws on from the noise of its inputs."""

    def __init__(self, *, image_size: int, channels: int, **serving: Unpack[Serving]) -> None:
        super().__init__()
        self.image_size, self.channels = image_size, channels
        self.batch_size, self.num_workers, self.seed = serving["batch_size"], serving["num_workers"], serving["seed"]
        self.resident, self.corruption = serving["resident"], serving["corruption"]
        self.splits: dict[Split, Images] = {}
        self._manifest: Manifest | None = None
        self._on_device: dict[Split, Images] = {}
        self._position = (0, 0)

    def load(self) -> dict[Split, Images]:
        """Reads or generates all splits."""
        raise NotImplementedError

    def describe(self) -> Manifest:
        """What the loaded splits are made of: the same on every machine for the same data and seed."""
        raise NotImplementedError

    def manifest(self) -> Manifest:
        """What the loaded splits are made of, found out once."""
        if self._manifest is None:
            self._manifest = self.describe()
        return self._manifest

    def present(self, raw: RawBatch, noise: Noise) -> Batch:
        """Turns a raw batch on the device into input and target, before any corruption; by default the same."""
        x = to_unit_range(raw.pixels)
        return Batch(x, x, raw.indices, noise, raw.label, mask=raw.mask, fabric=raw.fabric, defect=raw.defect)

    def setup(self, stage: str | None = None) -> None:
        """Loads the splits, once."""
        if not self.splits:
            self.splits = self.load()

    def num_images(self, split: Split) -> int:
        """Size of a split."""
        return self.splits[split].size

    def split_hash(self) -> str:
        """Digest of the manifest: equal hashes mean equal images in equal splits, before any noise."""
        manifest = self.manifest()
        content = {key: manifest[key] for key in ("splits", "sources", "settings")}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def noise(self, indices: Tensor, split: Split) -> Noise:
        """The noise of a batch: the run's own state in training, (seed, index) alone elsewhere."""
        return TrainingNoise() if split == "train" else IndexedNoise(self.seed, indices, SPLITS.index(split))

    def batch(self, split: Split, indices: Tensor, device: torch.device | str = "cpu") -> Batch:
        """The batch of chosen images, with evaluation noise: for pictures and tests."""
        raw = move_data_to_device(self.splits[split].take(indices), torch.device(device))
        return self._feed(raw, IndexedNoise(self.seed, raw.indices, SPLITS.index(split)))

    def on_after_batch_transfer(self, batch: RawBatch | Tensor, dataloader_idx: int) -> Batch:
        """Conversion and corruption, on the device."""
        assert self.trainer is not None
        split: Split = "train" if self.trainer.training else "test" if self.trainer.testing else "val"
        if isinstance(batch, Tensor):
            if split not in self._on_device:
                self._on_device[split] = self.splits[split].on(batch.device)
            batch = self._on_device[split].take(batch)
        return self._feed(batch, self.noise(batch.indices, split))

    def _feed(self, raw: RawBatch, noise: Noise) -> Batch:
        batch = self.present(raw, noise)
        if not isinstance(self.corruption, Identity):
            batch = batch._replace(input=self.corruption(batch.input, noise))
        if self.sample_seed is not None and isinstance(noise, IndexedNoise):
            batch = batch._replace(noise=IndexedNoise(self.sample_seed, raw.indices, len(SPLITS)))
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
