"""Base of the data modules that read files: decodes them once, into a cache."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn, Unpack

import torch
from torch import Tensor
from tqdm import tqdm

from saaae.data.cache import ArrayWriter, Cached, cached, record_layout
from saaae.data.checks import ScaleCheck, duplicates_across
from saaae.data.datamodule import SPLITS, ImageDataModule, Manifest, Serving
from saaae.data.files import BrokenFiles, digest_of
from saaae.data.images import Images
from saaae.data.listing import unread_images
from saaae.errors import UserError
from saaae.ranges import ExistingFolder, Runtime
from saaae.types import Split

MANY_FILES = 1000
"""Number of files from which decoding is announced."""

Keep = Callable[[Mapping[str, Any], Callable[[ArrayWriter], dict[str, Any]]], Cached]
"""Stores what a build function appends, given its key, and returns it."""


class DecodedFile(NamedTuple):
    """Content of one decoded file.

    Attributes:
        arrays: Rows for every array of the cache, by name: `pixels` (n, C, H, W) and other fields of the data set.
        left_out: How many pieces were not kept, by reason.
        side: The shorter side of the image.
        kind: Type of the stored pixels; a folder may have only one. Empty where any will do.
    """

    arrays: dict[str, Tensor]
    left_out: dict[str, int]
    side: int
    kind: str = ""


class TileLocations(NamedTuple):
    """Where tiles were cut from.

    Attributes:
        file: Number of each tile's file (N,), int64.
        start: Row and column where it begins (N, 2), int64.
    """

    file: Tensor
    start: Tensor


class FileSettings(Serving):
    """How a data module reads its files and serves their images.

    Attributes:
        root: Folder of the files, searched with its subfolders; only read.
        on_error: What to do about a file that cannot be used: `raise`, or `skip` it, count it and name it.
        allow_duplicates: Whether equal files may be in both training and test.
        cache_dir: Folder of the caches of decoded images; None is the user's cache folder.
    """

    root: ExistingFolder
    on_error: Literal["raise", "skip"]
    allow_duplicates: Runtime[bool]
    cache_dir: str | None


class CachedFiles(ImageDataModule):
    """Base of the data modules that read files: a subclass lists them, decodes each and assigns splits.

    Args:
        root: See `FileSettings`.
        on_error: See `FileSettings`.
        allow_duplicates: See `FileSettings`.
        cache_dir: See `FileSettings`.
        image_size: Side of the images in pixels.
        channels: Channels of the images.
        **serving: How the images are served.
    """

    splits: dict[Split, Images]
    test_all = False
    """Whether all images test: evaluate.py sets it for a `FolderData` that its model was not trained on."""

    def __init__(
        self,
        *,
        root: str,
        on_error: Literal["raise", "skip"],
        allow_duplicates: bool,
        cache_dir: str | None,
        image_size: int,
        channels: int,
        **serving: Unpack[Serving],
    ) -> None:
        super().__init__(image_size=image_size, channels=channels, **serving)
        self.root, self.on_error, self.allow_duplicates = Path(root), on_error, allow_duplicates
        self._keep: Keep = partial(cached, cache_dir, type(self).__name__)
        self._notes: dict[str, Any] = {}

    def files(self) -> dict[str, Path]:
        """The files by their names in cache and manifest, in order."""
        raise NotImplementedError

    def companions(self, name: str) -> list[Path]:
        """Further files that belong to a file, such as its masks; by default none."""
        return []

    def settings(self) -> dict[str, Any]:
        """Settings that affect the decoded content; plain values."""
        raise NotImplementedError

    def read(self, name: str, path: Path) -> DecodedFile:
        """What a file becomes.

        Raises:
            BrokenFileError: If it cannot be used.
        """
        raise NotImplementedError

    def split_rows(self, arrays: dict[str, Tensor], names: list[str]) -> dict[Split, Tensor]:
        """The rows of each split, given the arrays (of which `file` is the position in `names`)."""
        raise NotImplementedError

    def images(self, arrays: dict[str, Tensor]) -> Images:
        return Images(arrays["pixels"])

    def load(self) -> dict[Split, Images]:
        """Maps the cache, after writing it if necessary, and assigns its rows to the splits."""
        files, unread = self.files(), BrokenFiles(self.on_error == "skip")
        digests = {name: unread.attempt(name, partial(self._digest, name, files[name])) for name in files}
        sources = {name: digest for name, digest in digests.items() if digest is not None}
        key = {"sources": sources, "settings": self.settings(), "on_error": self.on_error}
        cache = self._keep(key, partial(self._write, files, sources))
        skipped = unread.reasons | cache.notes["skipped"]
        left_out = cache.notes["left_out"] | self.unread()
        if not cache.notes["names"]:
            raise UserError(
                f"data.root={self.root}: no file of {len(files)} can be used; {next(iter(skipped.values()))}"
            )
        self._paths, self._notes = files, {"sources": sources, **cache.notes, "skipped": skipped, "left_out": left_out}
        return self._share_out(cache)

    def unread(self) -> dict[str, int]:
        """Number of image files of unsupported kinds, by kind."""
        return unread_images(self.root)

    def _digest(self, name: str, path: Path) -> str:
        return "-".join(digest_of(part) for part in (path, *self.companions(name)))

    def _write(self, files: dict[str, Path], sources: dict[str, str], writer: ArrayWriter) -> dict[str, Any]:
        broken = BrokenFiles(self.on_error == "skip")
        used: list[str] = []
        left_out: Counter[str] = Counter()
        side, kind, scale = 0, None, ScaleCheck()
        if len(sources) > MANY_FILES:
            print(f"decoding {len(sources)} files", flush=True)
        for name in tqdm(sources, "decoding", unit="file", delay=5, leave=False, disable=None):
            pieces = broken.attempt(name, partial(self.read, name, files[name]))
            if pieces is None:
                continue
            if kind not in (None, pieces.kind):
                raise UserError(
                    f"{files[name]}: {pieces.kind} pixels, those of the files before {kind}; expected one kind"
                )
            writer.append("file", torch.full((len(pieces.arrays["pixels"]),), len(used)))
            for key, rows in pieces.arrays.items():
                writer.append(key, rows)
            used.append(name)
            left_out += Counter(pieces.left_out)
            scale.add(pieces.arrays["pixels"])
            side, kind = max(side, pieces.side), pieces.kind
        for name in sources:
            if self._digest(name, files[name]) != sources[name]:
                raise UserError(f"{files[name]}: changed while it was being read; start again")
        reasons = {name: why.replace(f"{self.root}/", "") for name, why in broken.reasons.items()}
        return {"names": used, "left_out": dict(left_out), "side": side, "skipped": reasons, "scale": scale.warnings()}

    def setup_layout(self) -> None:
        """Loads the splits without a cache of pixels: these are zeros that take no memory, and `again` reads them."""
        self._keep = record_layout
        self.setup()

    def again(self) -> Iterator[dict[str, Tensor]]:
        """Arrays of each file that the loaded splits are made of, read once more, in the order of their rows.

        Raises:
            UserError: If a file has changed since.
        """
        for name in self._notes["names"]:
            path = self._paths[name]
            pieces = self.read(name, path)
            if self._digest(name, path) != self._notes["sources"][name]:
                raise UserError(f"{path}: changed while it was being read; start again")
            yield pieces.arrays

    def _share_out(self, cache: Cached) -> dict[Split, Images]:
        whole = self.images(cache.arrays)
        rows = self.split_rows(cache.arrays, cache.notes["names"])
        for split in SPLITS:
            if not len(rows[split]) and (split == "test" or not self.test_all):
                self._refuse(split, cache.notes)
        self._files, self._starts = cache.arrays["file"], cache.arrays["start"]
        digests = {name: digest.partition("-")[0] for name, digest in self._notes["sources"].items()}
        files = {
            split: {cache.notes["names"][i] for i in self._files[rows[split]].unique().tolist()} for split in SPLITS
        }
        self._notes["duplicates"] = duplicates_across(files, digests, self.allow_duplicates)
        return {split: whole._replace(rows=rows[split]) for split in SPLITS}

    @property
    def file_names(self) -> list[str]:
        """Names of the files below the root, by their number in `places`."""
        return self._notes["names"]

    def places(self, split: Split) -> TileLocations:
        """Where the images of a split were cut from."""
        rows = self.splits[split].rows
        return TileLocations(self._files[rows], self._starts[rows])

    def _refuse(self, split: Split, notes: dict[str, Any]) -> NoReturn:
        reasons = "".join(f"; {count} {reason}" for reason, count in notes["left_out"].items())
        if notes["side"] < self.image_size:
            fitting = notes["side"] // 4 * 4
            expected = f"expected at most {fitting}" if fitting >= 8 else "expected images of at least 8 x 8 pixels"
            raise UserError(
                f"data.image_size={self.image_size}: no image has so many rows and columns{reasons}; {expected}"
            )
        raise UserError(f"data.root={self.root}: nothing is left for the {split} split{reasons}; expected more images")

    def describe(self) -> Manifest:
        """Tiles of each file, and why others are missing."""
        names, splits = self._notes["names"], {}
        for split, images in self.splits.items():
            positions, counts = self._files[images.rows].unique(return_counts=True)
            splits[str(split)] = {names[i]: n for i, n in zip(positions.tolist(), counts.tolist(), strict=True)}
        return {
            "splits": splits,
            "sources": self._notes["sources"],
            "settings": self.settings(),
            "left_out": self._notes["left_out"],
            "skipped": self._notes["skipped"],
            "warnings": [*self._notes["scale"], *self._notes["duplicates"]],
        }
