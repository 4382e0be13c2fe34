"""Shards: files of many tiles each, with an index, that are read from a folder or a URL.

A set of shards is one folder: `index.json`, written last, and below `train`, `val` and `test` the shards. These are
`.npy` files of a structured type: `pixels` and, where the data has them, `reference`, `window` and `label` of each
image.
"""

import json
import shutil
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from saaae.atomic import replacing
from saaae.data.cache import content_digest
from saaae.data.datamodule import SPLITS, Manifest
from saaae.data.folder import FolderData
from saaae.errors import UserError
from saaae.types import Domain, Split

INDEX, FORMAT = "index.json", 2
WRITE_SHARDS = "write the shards with python -m saaae.cli.shards"
FIELDS = ("pixels", "reference", "window", "label")
"""Fields of `Images` that shards can have."""


class Shard(NamedTuple):
    """One file of a set.

    Attributes:
        name: Its path relative to the set's folder.
        images: Number of images.
        size: Size of the file in bytes.
        digest: Digest of its content.
    """

    name: str
    images: int
    size: int
    digest: str

    def damage(self, content: bytes) -> str | None:
        """Why this is not the content of the shard; None if it is."""
        if len(content) != self.size:
            return f"{len(content)} bytes instead of {self.size}"
        return None if content_digest(content) == self.digest else "not the content that was written"


class Index(NamedTuple):
    """Content of a set of shards.

    Attributes:
        domain: Imaging domain of the images.
        image_size: Side of the images in pixels.
        channels: Their channels.
        fields: Fields of an image, of `FIELDS`.
        shards: The shards of each split, in the order of its images.
        manifest: The manifest of the data module that the images are from.
        class_names: Names of the classes of the labels, by their numbers; None where there are no labels.
    """

    domain: Domain
    image_size: int
    channels: int
    fields: list[str]
    shards: dict[Split, list[Shard]]
    manifest: Manifest
    class_names: list[str] | None = None

    def to_json(self) -> str:
        content = self._asdict()
        if self.class_names is None:  # what earlier versions read, too
            del content["class_names"]
        return json.dumps({"format": FORMAT} | content)

    @classmethod
    def from_json(cls, text: bytes, name: str) -> "Index":
        """Reads the content of an index file.

        Raises:
            UserError: If it is damaged or of another version, naming `name`.
        """
        try:
            content = json.loads(text)
            version = content.pop("format")
            if version == FORMAT:
                shards = {split: [Shard(*shard) for shard in content["shards"][split]] for split in SPLITS}
                return cls(**content | {"shards": shards})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{name}: damaged ({type(error).__name__}: {error}); {WRITE_SHARDS} again") from None
        raise UserError(f"{name}: format {version}, this version reads {FORMAT}; {WRITE_SHARDS} again")


class ShardWriter:
    """Writes the images of one split, one shard at a time.

    Args:
        folder: Folder of the set.
        split: The split.
        shard_images: Images per shard; the last one may have fewer.
        dtype: Structured type of an image.
    """

    def __init__(self, folder: Path, split: Split, shard_images: int, dtype: np.dtype) -> None:
        self.folder, self.split, self.shard_images, self.dtype = folder, split, shard_images, dtype
        self.shards: list[Shard] = []
        self._parts: list[np.ndarray] = []

    def append(self, fields: Mapping[str, Tensor]) -> None:
        """Adds images, given the rows (n, ...) of each field."""
        rows = np.empty(len(fields["pixels"]), self.dtype)
        for name in self.dtype.names or ():
            rows[name] = fields[name].numpy()
        self._parts.append(rows)
        if sum(map(len, self._parts)) >= self.shard_images:
            rows = np.concatenate(self._parts)
            whole = len(rows) // self.shard_images * self.shard_images
            for start in range(0, whole, self.shard_images):
                self._save(rows[start : start + self.shard_images])
            self._parts = [rows[whole:].copy()]

    def finish(self) -> list[Shard]:
        """Writes the rest; returns all shards of the split."""
        if any(map(len, self._parts)):
            self._save(np.concatenate(self._parts))
        return self.shards

    def _save(self, rows: np.ndarray) -> None:
        name, file = f"{self.split}/{len(self.shards):05d}.npy", BytesIO()
        np.save(file, rows)
        with replacing(self.folder / name) as target:
            target.write(file.getbuffer())
        self.shards.append(Shard(name, len(rows), file.tell(), content_digest(file.getvalue())))


def write_shards(data: FolderData, folder: Path, shard_images: int) -> Index:
    """Cuts the files of a data module into tiles, file by file, and writes them as shards.

    Each file is read twice, because the split of its tiles depends on which files can be used. Memory holds the tiles
    of one file, one shard of each split, and the file and location of every tile.

    Args:
        data: The data module that would hold the same images in memory; not yet set up.
        folder: Folder of the set; appears as a whole at the end.
        shard_images: Images per shard.

    Raises:
        UserError: If the folder exists, another process writes it, or the images cannot be used.
    """
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    part, lock = (folder.with_name(folder.name + ending) for ending in (".part", ".lock"))
    try:
        with FileLock(lock, timeout=0):
            try:
                if folder.exists():
                    raise UserError(f"to={folder}: exists already; expected the name of a new folder")
                shutil.rmtree(part, ignore_errors=True)
                index = _write(data, part, shard_images)
                part.rename(folder)
            finally:
                shutil.rmtree(part, ignore_errors=True)
                lock.unlink(missing_ok=True)
    except Timeout:
        raise UserError(f"to={folder}: another process is writing it") from None
    return index


def _write(data: FolderData, folder: Path, shard_images: int) -> Index:
    data.setup_layout()
    whole = data.splits["train"]
    layout = {name: rows for name in FIELDS if (rows := getattr(whole, name)) is not None}
    dtype = np.dtype([(name, rows[:0].numpy().dtype, tuple(rows.shape[1:])) for name, rows in layout.items()])
    writers = [ShardWriter(folder, split, shard_images, dtype) for split in SPLITS]
    split_of = torch.full((len(whole.pixels),), -1)
    for number, split in enumerate(SPLITS):
        split_of[data.splits[split].rows] = number
    start = 0
    for arrays in data.again():
        rows = slice(start, start + len(arrays["pixels"]))
        known = {"window": whole.window, "label": whole.label}
        fields = arrays | {name: values[rows] for name, values in known.items() if values is not None}
        for number, writer in enumerate(writers):
            chosen = split_of[rows] == number
            writer.append({name: fields[name][chosen] for name in layout})
        start = rows.stop
    shards = {writer.split: writer.finish() for writer in writers}
    names = None if data.class_names is None else list(data.class_names)
    index = Index(data.domain, data.image_size, data.channels, list(layout), shards, data.manifest(), names)
    with replacing(folder / INDEX) as file:
        file.write(index.to_json().encode())
    return index
