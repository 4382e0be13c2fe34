"""Images streamed from shards, in an order that a checkpoint's position resumes exactly."""

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, lru_cache
from itertools import islice
from typing import Literal, Unpack

import numpy as np
import torch
from torch import Tensor

from saaae.data.datamodule import SPLITS, ImageDataModule, Manifest, Serving
from saaae.data.images import ImageSplit, RawBatch
from saaae.data.sampler import EpochBatches
from saaae.data.sar import paired
from saaae.data.shards import Shard
from saaae.data.stores import FolderStore, RemoteStore
from saaae.errors import UserError
from saaae.ranges import Folder, ImageSize, PositiveFloat, PositiveInt, Runtime, Target
from saaae.rng import RandomSource
from saaae.types import Batch, Split


class StreamedImages:
    """One split in shards, a few of which are open at a time.

    Args:
        store: Where they are.
        shards: The shards, in the order of their images.
        num_open: How many are open at most; the least recently used one is closed.
    """

    def __init__(self, store: FolderStore | RemoteStore, shards: list[Shard], num_open: int) -> None:
        self.store, self.shards, self.num_open = store, shards, num_open
        self.ends = np.cumsum([shard.images for shard in shards])

    def __reduce__(self) -> tuple[object, ...]:
        """Open files are not pickled: a worker opens its own."""
        return StreamedImages, (self.store, self.shards, self.num_open)

    @property
    def size(self) -> int:
        return int(self.ends[-1])

    def take(self, indices: Tensor) -> RawBatch:
        """The images at positions (B,) of the split.

        Raises:
            UserError: If a shard cannot be read.
        """
        position = indices.numpy()
        number = np.searchsorted(self.ends, position, side="right")
        shards = {k: self.opened(k) for k in dict.fromkeys(number.tolist())}
        row_from_end = (position - self.ends[number]).tolist()
        rows = np.empty(len(position), shards[int(number[0])].dtype)
        for i, (k, row) in enumerate(zip(number.tolist(), row_from_end, strict=True)):
            rows[i] = shards[k][row]  # twice as fast as one indexed read of each shard, in batches of 16
        fields = {name: torch.from_numpy(np.ascontiguousarray(rows[name])) for name in rows.dtype.names or ()}
        return RawBatch(fields.pop("pixels"), indices, **fields)

    @cached_property
    def opened(self) -> Callable[[int], np.ndarray]:
        """The images of a shard, given its number: a structured array, memory-mapped."""
        return lru_cache(self.num_open)(self._open)

    def _open(self, number: int) -> np.ndarray:
        while True:
            try:
                return np.load(self.store.local(self.shards[number]), mmap_mode="r")
            except FileNotFoundError:  # deleted since by another process that needed the space
                continue


class ShardBatches(EpochBatches):
    """Batches in an order that touches a few shards at a time; it is a function of (seed, epoch).

    The shards are shuffled and divided into windows, and the images of each window are shuffled. A step at the border
    of two windows has images of both.

    Args:
        counts: Images of each shard.
        window: Shards per window.
        prepare: Called at the start of a window with its shards and those of the next.
        batch_size: Images per batch of one process.
        seed: Seed of the order.
        rank: Number of this process.
        num_processes: How many there are.
    """

    def __init__(
        self,
        counts: list[int],
        window: int,
        prepare: Callable[[list[int]], None],
        batch_size: int,
        seed: int,
        rank: int = 0,
        num_processes: int = 1,
    ) -> None:
        super().__init__(sum(counts), batch_size, seed, rank, num_processes)
        self.counts, self.window, self.prepare = torch.tensor(counts), window, prepare
        self.starts = self.counts.cumsum(0) - self.counts

    def steps(self, start: int) -> Iterator[Tensor]:
        """The images of all processes at each step of the epoch, from step `start` on."""
        return islice(self._all_steps(start), len(self) - start)

    def _all_steps(self, start: int) -> Iterator[Tensor]:
        images = self.batch_size * self.num_processes
        skip, rest = start * images, torch.empty(0, dtype=torch.int64)
        for order in self._orders(skip):
            *whole, rest = torch.cat([rest, order]).split(images)
            yield from whole
            if len(rest) == images:
                yield rest
                rest = rest[:0]
        if len(rest):
            yield rest

    def _orders(self, skip: int) -> Iterator[Tensor]:
        """The images of each window without the first `skip` of the epoch, whose windows are not prepared."""
        generator = self.generator()
        windows = torch.randperm(len(self.counts), generator=generator).split(self.window)
        seeds = torch.randint(2**62, (len(windows),), generator=generator).tolist()
        for number, (shards, seed) in enumerate(zip(windows, seeds, strict=True)):
            size = int(self.counts[shards].sum())
            if skip < size:
                self.prepare(torch.cat(windows[number : number + 2]).tolist())
                ranges = zip(self.starts[shards].tolist(), self.counts[shards].tolist(), strict=True)
                order = torch.cat([torch.arange(first, first + count) for first, count in ranges])
                yield order[torch.randperm(size, generator=torch.Generator().manual_seed(seed))][skip:]
            skip = max(0, skip - size)


class StreamData(ImageDataModule):
    """Images from shards, which may be larger than the disk: a few are open, and those of a URL are downloaded in time.

    The splits are those of the shards, whatever the seed. Validation and test are read in order.

    Args:
        root: Folder of the shards, or its URL.
        target: `noisy`: the images themselves. `clean`: their references, which the shards must have.
        labels: Names of the classes by their numbers, as in the shards; None: images without classes.
        shuffle_shards: Shards per window: images are shuffled within so many of them.
        cache_gb: Limit of the downloads that are kept, in 10^9 bytes; not used for a folder.
        cache_dir: Folder of the downloads; None is the user's cache folder.
        image_size: Side of the images in pixels, as in the shards.
        channels: Channels of the images, as in the shards.
        **serving: How the images are served; `resident` must be false.
    """

    def __init__(
        self,
        *,
        root: Folder,
        target: Target[Literal["noisy", "clean"]],
        labels: list[str] | None,
        shuffle_shards: PositiveInt,
        cache_gb: Runtime[PositiveFloat],
        cache_dir: str | None,
        image_size: ImageSize,
        channels: Literal[1, 3],
        **serving: Unpack[Serving],
    ) -> None:
        super().__init__(image_size=image_size, channels=channels, **serving)
        if self.resident:
            raise UserError("data.resident=true: streamed images do not stay on the device; expected false")
        self.target, self.shuffle_shards = target, shuffle_shards
        self.store = RemoteStore(root, cache_dir, cache_gb) if "://" in root else FolderStore(root)
        self.index = self.store.index()
        self.domain = self.index.domain
        self._check()
        if labels is not None:
            self._check_labels(labels)
            self.class_names, self.num_classes = labels, len(labels)

    def _check(self) -> None:
        for key in ("image_size", "channels"):
            given, stored = getattr(self, key), getattr(self.index, key)
            if given != stored:
                raise UserError(f"data.{key}={given}: the shards have {stored}; expected data.{key}={stored}")
        if self.target == "clean" and "reference" not in self.index.fields:
            raise UserError("data.target=clean: these shards have no references; expected data.target=noisy")
        sizes = [shard.size for split in SPLITS for shard in self.index.shards[split]]
        needed = min(sum(sizes), 3 * self.shuffle_shards * max(sizes))  # the last, the current, the next window
        if isinstance(self.store, RemoteStore) and self.store.limit < needed:
            raise UserError(
                f"data.cache_gb={self.store.limit / 1e9:g}: three windows of data.shuffle_shards={self.shuffle_shards} "
                f"shards do not fit; expected at least {needed / 1e9:.3g}"
            )

    def _check_labels(self, labels: list[str]) -> None:
        stored = self.index.class_names
        if stored is None:
            raise UserError("data.labels: these shards have no classes; expected null, or shards with data.labels")
        if labels != stored:
            given, expected = (f"data.labels=[{','.join(names)}]" for names in (labels, stored))
            raise UserError(f"{given}: expected the classes of the shards, {expected}")

    def load(self) -> Mapping[Split, ImageSplit]:
        num_open = 2 * self.shuffle_shards
        return {split: StreamedImages(self.store, self.index.shards[split], num_open) for split in SPLITS}

    def describe(self) -> Manifest:
        """The manifest of the data that the shards were written from."""
        return self.index.manifest

    def present(self, raw: RawBatch, rng: RandomSource) -> Batch:
        """The image is the input; the image or the reference is the target."""
        return paired(raw, rng, self.target)

    def _batches(self, split: Split, seed: int | None, rank: int, num_processes: int) -> EpochBatches:
        if seed is None:
            return super()._batches(split, seed, rank, num_processes)
        shards = self.index.shards[split]

        def prepare(numbers: list[int]) -> None:
            self.store.prepare([shards[number] for number in numbers])

        counts = [shard.images for shard in shards]
        return ShardBatches(counts, self.shuffle_shards, prepare, self.batch_size, seed, rank, num_processes)
