"""Shards: files of many tiles each, with an index, that are read from a folder or an object store.

A set of shards is one folder. `index.json`, written last, says what it holds; `train`, `val` and `test` are data sets
in the format of litdata. Their items are bytes of one length, so that a shard is one array after its header: uint32
number of items, uint32 where each begins and the last ends; then for each item its length (uint32) and its bytes.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from saaae.atomic import replacing
from saaae.data.cache import ArrayWriter, Cached, content_digest
from saaae.data.datamodule import SPLITS, Manifest
from saaae.data.folder import FolderData
from saaae.data.images import Images
from saaae.errors import UserError
from saaae.types import Domain, Split

INDEX, FORMAT = "index.json", 1
"""What the set's folder is found out from; litdata fetches a file of this name without a thread of its own."""
WRITE_THEM = "python -m saaae.cli.shards writes them"
INSTALL = "pip install 'saaae[stream]'"
FIELDS = ("pixels", "reference", "window")
"""What an item may hold, in the order that it is written in."""


class Shard(NamedTuple):
    """One file of a set.

    Attributes:
        name: Where it is below the set's folder.
        images: Tiles in it.
        size: Its bytes.
        digest: Of its content.
    """

    name: str
    images: int
    size: int
    digest: str


class Index(NamedTuple):
    """What a set of shards holds.

    Attributes:
        field: What the images are.
        image_size: Side of the images in pixels.
        channels: Their channels.
        record: Type and shape of each field of an item.
        shards: Those of each split, in the order of its images.
        manifest: What the splits are made of, as in the run that would read the same images from files.
    """

    field: Domain
    image_size: int
    channels: int
    record: dict[str, tuple[str, list[int]]]
    shards: dict[Split, list[Shard]]
    manifest: Manifest

    def dtype(self) -> np.dtype:
        """An item without the sizes before it."""
        return np.dtype([(name, kind, tuple(shape)) for name, (kind, shape) in self.record.items()])

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT} | self._asdict())

    @classmethod
    def from_json(cls, text: str | bytes, name: str) -> "Index":
        """The index in a file.

        Raises:
            UserError: If it is none, or of another version.
        """
        try:
            found = json.loads(text)
            version = found.pop("format")
            if version == FORMAT:
                shards = {split: [Shard(*shard) for shard in found["shards"][split]] for split in SPLITS}
                return cls(**found | {"shards": shards})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{name}: damaged ({type(error).__name__}: {error}); {WRITE_THEM} anew") from None
        raise UserError(f"{name}: format {version}, this version reads {FORMAT}; {WRITE_THEM} anew")


LENGTH_KEYS = 4
"""Bytes that litdata writes before an item."""


def size_of(images: int, record: np.dtype) -> tuple[int, int]:
    """Bytes of the header of a shard and of the whole file."""
    header = 4 * (images + 2)
    return header, header + images * (LENGTH_KEYS + record.itemsize)


def items_of(path: Path, shard: Shard, record: np.dtype) -> np.ndarray:
    """The items of a shard (n, bytes of an item), uint8, mapped from disk."""
    shape = (shard.images, LENGTH_KEYS + record.itemsize)
    return np.memmap(path, np.uint8, mode="r", offset=size_of(shard.images, record)[0], shape=shape)[:, LENGTH_KEYS:]


def fault_of(path: Path, shard: Shard) -> str | None:
    """Why a file is not the shard that was written; None if it is.

    Raises:
        FileNotFoundError: If there is none.
    """
    size = path.stat().st_size
    if size != shard.size:
        return f"{size} bytes instead of {shard.size}"
    return None if content_digest(path.read_bytes()) == shard.digest else "not the content that was written"


class Survey(ArrayWriter):
    """Keeps of the decoded images where they were cut from, and of their pixels the type and shape alone."""

    def __init__(self) -> None:
        self.places: dict[str, list[Tensor]] = {"file": [], "start": []}
        self.layouts: dict[str, Tensor] = {}

    def append(self, name: str, rows: Tensor) -> None:
        """Notes rows (n, ...) of an array."""
        if name in self.places:
            self.places[name].append(rows)
        else:
            self.layouts[name] = rows.new_zeros(()).expand(rows.shape[1:])

    def arrays(self) -> dict[str, Tensor]:
        """All arrays; those of pixels are zeros that take no memory."""
        places = {name: torch.cat(parts) if parts else torch.zeros(0) for name, parts in self.places.items()}
        return places | {name: zero.expand(len(places["file"]), *zero.shape) for name, zero in self.layouts.items()}


def survey(key: Mapping[str, Any], build: Callable[[ArrayWriter], dict[str, Any]]) -> Cached:
    """What a cache would hold, without the pixels."""
    writer = Survey()
    notes = build(writer)
    return Cached(writer.arrays(), notes)


class ShardWriter:
    """Writes the items of one split, a shard at a time.

    Args:
        folder: The set's folder.
        split: The split.
        shard_images: Tiles a shard.
        record: An item.

    Raises:
        UserError: If litdata is not installed.
    """

    def __init__(self, folder: Path, split: Split, shard_images: int, record: np.dtype) -> None:
        try:
            from litdata.streaming.writer import BinaryWriter
        except ImportError:
            raise UserError(f"shards are written with litdata, which is not installed; {INSTALL}") from None
        self.folder, self.record = folder, record
        self.shards: list[Shard] = []
        self._writer = BinaryWriter(str(folder / split), chunk_size=shard_images)
        self._written = 0

    def append(self, fields: Mapping[str, Tensor]) -> None:
        """Adds items, given the rows (n, ...) of each field."""
        items = np.empty(len(fields["pixels"]), self.record)
        for name in self.record.names or ():
            items[name] = fields[name].numpy()
        for item in items:
            path = self._writer.add_item(self._written, item.tobytes())
            self._written += 1
            if path:  # a shard of the items before this one
                self._note(Path(path))

    def finish(self) -> list[Shard]:
        """Writes the last shard and litdata's own index."""
        for path in self._writer.done():
            self._note(Path(path))
        self._writer.merge()
        assert sum(shard.images for shard in self.shards) == self._written
        return self.shards

    def _note(self, path: Path) -> None:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            content = file.read()
        images = int.from_bytes(content[:4], "little")
        assert len(content) == size_of(images, self.record)[1], f"{path}: litdata has written another format"
        name = path.relative_to(self.folder).as_posix()
        self.shards.append(Shard(name, images, len(content), content_digest(content)))


def write_shards(data: FolderData, folder: Path, shard_images: int) -> Index:
    """Cuts the files of a data module into tiles, file by file, and writes them as shards.

    Each file is read twice: which split its tiles are in depends on which files can be used. Memory holds the tiles of
    one file, a shard of each split, and of every tile its file and place.

    Args:
        data: What would hold the same images in memory; not yet set up.
        folder: The set's folder; appears all at once.
        shard_images: Tiles a shard.

    Raises:
        UserError: If the folder exists, or another process writes it, or the images cannot be used.
    """
    folder = folder.absolute()
    if folder.exists():
        raise UserError(f"to={folder}: exists already; expected the name of a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    part, lock = (folder.with_name(folder.name + ending) for ending in (".part", ".lock"))
    try:
        with FileLock(lock, timeout=0):
            if folder.exists():  # another process was faster
                raise UserError(f"to={folder}: exists already; expected the name of a new folder")
            shutil.rmtree(part, ignore_errors=True)
            try:
                index = _write(data, part, shard_images)
                part.rename(folder)
            except BaseException:
                shutil.rmtree(part, ignore_errors=True)
                raise
            finally:
                lock.unlink(missing_ok=True)
    except Timeout:
        raise UserError(f"to={folder}: another process writes it") from None
    return index


def _write(data: FolderData, folder: Path, shard_images: int) -> Index:
    data.keep = survey
    data.setup()
    whole = data.splits["train"]
    record = _record_of(whole)
    index = Index(data.domain, data.image_size, data.channels, record, {}, data.manifest())
    writers = {split: ShardWriter(folder, split, shard_images, index.dtype()) for split in SPLITS}
    code = torch.full((len(whole.pixels),), -1)
    for number, split in enumerate(SPLITS):
        code[data.splits[split].rows] = number
    start = 0
    for pieces in data.again():
        rows = slice(start, start + len(pieces["pixels"]))
        fields = pieces if whole.window is None else pieces | {"window": whole.window[rows]}
        for number, split in enumerate(SPLITS):
            mine = code[rows] == number
            writers[split].append({field: fields[field][mine] for field in record})
        start = rows.stop
    index = index._replace(shards={split: writers[split].finish() for split in SPLITS})
    with replacing(folder / INDEX) as file:
        file.write(index.to_json().encode())
    return index


def _record_of(images: Images) -> dict[str, tuple[str, list[int]]]:
    fields = {name: getattr(images, name) for name in FIELDS if getattr(images, name) is not None}
    return {name: (rows[:0].numpy().dtype.str, list(rows.shape[1:])) for name, rows in fields.items()}
