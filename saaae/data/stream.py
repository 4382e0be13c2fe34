"""Images streamed from shards, in an order of our own that a checkpoint's position resumes exactly.

The engine (litdata) writes and downloads shards. What is read when is decided here: its random access is slow and keeps
to no cache limit, and its own order depends on the number of workers.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Literal, Unpack, cast

import numpy as np
import torch
from torch import Tensor

from saaae.data.datamodule import SPLITS, ImageDataModule, Manifest, Serving
from saaae.data.images import Images, RawBatch
from saaae.data.sampler import EpochBatches
from saaae.data.sar import paired
from saaae.data.shards import Shard, items_of
from saaae.data.stores import RemoteStore, Store, store_at
from saaae.errors import UserError
from saaae.ranges import Folder, ImageSize, PositiveFloat, PositiveInt, Runtime, Target
from saaae.rng import RandomSource
from saaae.types import Batch, Split


class StreamedImages:
    """One split in shards, of which a few are open at a time.

    Args:
        store: Where they are.
        shards: They, in the order of their images.
        record: An item of theirs.
        num_open: How many are open at most.
    """

    def __init__(self, store: Store, shards: list[Shard], record: np.dtype, num_open: int) -> None:
        self.store, self.shards, self.record, self.num_open = store, shards, record, num_open
        self.ends = np.cumsum([shard.images for shard in shards])
        self._open: OrderedDict[int, np.ndarray] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": OrderedDict()}

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
        items = {k: self.items(k) for k in dict.fromkeys(number.tolist())}
        places = (position - self.ends[number]).tolist()  # from the end
        rows = np.empty((len(position), self.record.itemsize), np.uint8)
        for row, (k, place) in enumerate(zip(number.tolist(), places, strict=True)):
            rows[row] = items[k][place]  # twice as fast as a gather from each shard
        fields = rows.view(self.record)[:, 0]
        found = {name: torch.from_numpy(np.ascontiguousarray(fields[name])) for name in self.record.names or ()}
        return RawBatch(found["pixels"], indices, reference=found.get("reference"), window=found.get("window"))

    def items(self, number: int) -> np.ndarray:
        """The items of a shard, mapped; the longest unused one is closed when there are too many."""
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        shard = self.shards[number]
        while True:
            try:
                self._open[number] = items_of(self.store.local(shard), shard, self.record)
                break
            except FileNotFoundError:  # deleted in this moment by another process that needed the room
                continue
        if len(self._open) > self.num_open:
            self._open.popitem(last=False)
        return self._open[number]


class ShardBatches(EpochBatches):
    """Batches in an order that touches a few shards at a time; it is a function of (seed, epoch).

    The shards are shuffled and dealt into windows, and the images of each window are shuffled. A step at the border of
    two windows has images of both.

    Args:
        counts: Images of each shard.
        window: Shards a window.
        prepare: Called at the start of a window with its shards and those of the next.
        batch_size: Images a batch of one process.
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
        """What all processes share at each step of the epoch, from one step on."""
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
        """The images of each window, but for the first `skip` of the epoch, whose windows are passed over unseen."""
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
    """Images from shards that no disk need hold: a few shards are open, and those of a URL are downloaded on the way.

    The splits are those of the shards, whatever the seed. Validation and test are read in order.

    Args:
        root: Folder of the shards, or its URL.
        target: `noisy`: an autoencoder of the images. `clean`: the references are the target, if the shards have them.
        shuffle_shards: Shards a window: images are shuffled among so many of them.
        cache_gb: Limit of the downloads that are kept, in 10^9 bytes; a folder needs none.
        cache_dir: Folder of the downloads; None is the user's cache folder.
        image_size: Side of the images in pixels; that of the shards.
        channels: Channels of the images; those of the shards.
        **serving: How the images are served; `resident` is false.
    """

    def __init__(
        self,
        *,
        root: Folder,
        target: Target[Literal["noisy", "clean"]],
        shuffle_shards: PositiveInt,
        cache_gb: Runtime[PositiveFloat],
        cache_dir: Folder | None,
        image_size: ImageSize,
        channels: Literal[1, 3],
        **serving: Unpack[Serving],
    ) -> None:
        super().__init__(image_size=image_size, channels=channels, **serving)
        if self.resident:
            raise UserError("data.resident=true: streamed images do not stay on the device; expected false")
        self.target, self.shuffle_shards = target, shuffle_shards
        self.store = store_at(root, cache_dir, cache_gb)
        self.index = self.store.index()
        self.domain = self.index.field
        self._refuse_mismatch()

    def _refuse_mismatch(self) -> None:
        for key in ("image_size", "channels"):
            given, held = getattr(self, key), getattr(self.index, key)
            if given != held:
                raise UserError(f"data.{key}={given}: the shards hold {held}; expected data.{key}={held}")
        if self.target == "clean" and "reference" not in self.index.record:
            raise UserError("data.target=clean: these shards have no references; expected data.target=noisy")
        sizes = [shard.size for split in SPLITS for shard in self.index.shards[split]]
        needed = min(sum(sizes), 3 * self.shuffle_shards * max(sizes))  # being left, being read, being fetched
        if isinstance(self.store, RemoteStore) and self.store.limit < needed:
            raise UserError(
                f"data.cache_gb={self.store.limit / 1e9:g}: three windows of data.shuffle_shards={self.shuffle_shards} "
                f"shards do not fit; expected at least {needed / 1e9:.3g}"
            )

    def load(self) -> dict[Split, Images]:
        record, num_open = self.index.dtype(), 2 * self.shuffle_shards
        streamed = {split: StreamedImages(self.store, self.index.shards[split], record, num_open) for split in SPLITS}
        return cast(dict[Split, Images], streamed)  # the base asks for their size, and takes batches

    def describe(self) -> Manifest:
        """The manifest from the time when the shards were written."""
        return self.index.manifest

    def present(self, raw: RawBatch, rng: RandomSource) -> Batch:
        """The image as input; the image or the reference as target."""
        return paired(raw, rng, self.target)

    def _batches(self, split: Split, seed: int | None, rank: int, num_processes: int) -> EpochBatches:
        if seed is None:
            return super()._batches(split, seed, rank, num_processes)
        shards = self.index.shards[split]

        def prepare(numbers: list[int]) -> None:
            self.store.prepare([shards[number] for number in numbers])

        counts = [shard.images for shard in shards]
        return ShardBatches(counts, self.shuffle_shards, prepare, self.batch_size, seed, rank, num_processes)
