"""Images from a folder: cut into tiles or resized, cached, and split so that nothing is on two sides."""

import re
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, Unpack

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import center_crop, resize

from saaae.data.cache import ArrayWriter, Cached, cached
from saaae.data.datamodule import SPLITS, ImageDataModule, Images, Manifest, Serving
from saaae.data.files import BrokenFileError, BrokenFiles, digest_of, list_images, num_of, read_image, split_groups
from saaae.data.tiles import cut_tiles
from saaae.errors import UserError
from saaae.ranges import ExistingFolder, ImageSize, OpenFraction
from saaae.types import Split

TOO_SMALL, NOT_FINITE = "images smaller than a tile", "tiles with pixels that are no numbers"


class Pieces(NamedTuple):
    """What one file becomes.

    Attributes:
        arrays: Rows for every array of the cache, by name: `pixels` (n, C, H, W) and whatever else the set has.
        left_out: How many pieces were not kept, by reason.
    """

    arrays: dict[str, Tensor]
    left_out: dict[str, int]


class CachedFiles(ImageDataModule):
    """Base of the data modules that read files: a subclass lists them and says what each becomes, and its split.

    Args:
        root: Folder of the files; only read.
        on_error: What to do about a file that cannot be used: `raise`, or `skip` it, count it and name it.
        cache_dir: Folder of the caches of decoded images; None is the user's cache folder.
        image_size: Side of the images in pixels.
        channels: Channels of the images.
        **serving: How the images are served.
    """

    def __init__(
        self,
        *,
        root: str,
        on_error: Literal["raise", "skip"],
        cache_dir: str | None,
        image_size: int,
        channels: int,
        **serving: Unpack[Serving],
    ) -> None:
        super().__init__(image_size=image_size, channels=channels, **serving)
        self.root, self.on_error, self.cache_dir = Path(root), on_error, cache_dir
        self._notes: dict[str, Any] = {}

    def files(self) -> dict[str, Path]:
        """The files by the names that cache and manifest know them by, in the order of their pieces."""
        raise NotImplementedError

    def companions(self, name: str) -> list[Path]:
        """Further files that decide what a file becomes, such as its masks; by default none."""
        return []

    def settings(self) -> dict[str, Any]:
        """What decides, beside the content of the files, what they become; plain values."""
        raise NotImplementedError

    def read(self, name: str, path: Path) -> Pieces:
        """What a file becomes.

        Raises:
            BrokenFileError: If it cannot be used.
        """
        raise NotImplementedError

    def split_rows(self, arrays: dict[str, Tensor], names: list[str]) -> dict[Split, Tensor]:
        """The rows of each split, given the arrays (of which `file` is the position in `names`)."""
        raise NotImplementedError

    def images(self, arrays: dict[str, Tensor]) -> Images:
        """All rows as images."""
        return Images(arrays["pixels"])

    def load(self) -> dict[Split, Images]:
        """Maps the cache, after writing it if need be, and shares its rows out."""
        files, broken = self.files(), BrokenFiles(self.on_error == "skip")
        digests = {name: broken.attempt(name, partial(self._digest, name, files[name])) for name in files}
        sources = {name: digest for name, digest in digests.items() if digest is not None}
        key = {"sources": sources, "settings": self.settings(), "on_error": self.on_error}
        cache = cached(
            self.cache_dir, type(self).__name__, key, lambda writer: self._write(writer, files, list(sources), broken)
        )
        if not cache.notes["names"]:
            raise UserError(f"data.root={self.root}: no file of {len(files)} can be used; {cache.notes['why_none']}")
        self._notes = {"sources": sources, **cache.notes, "skipped": broken.reasons | cache.notes["skipped"]}
        return self._share_out(cache)

    def _digest(self, name: str, path: Path) -> str:
        return "-".join(digest_of(part) for part in (path, *self.companions(name)))

    def _write(self, writer: ArrayWriter, files: dict[str, Path], names: list[str], broken: BrokenFiles) -> Any:
        used: list[str] = []
        left_out: Counter[str] = Counter()
        for name in names:
            pieces = broken.attempt(name, partial(self._append, writer, len(used), name, files[name]))
            if pieces is not None:
                used.append(name)
                left_out += Counter(pieces.left_out)
        why_none = next(iter(broken.reasons.values()), "")
        return {"names": used, "left_out": dict(left_out), "skipped": broken.reasons, "why_none": why_none}

    def _append(self, writer: ArrayWriter, position: int, name: str, path: Path) -> Pieces:
        pieces = self.read(name, path)
        count = len(pieces.arrays["pixels"])
        try:
            writer.append("pixels", pieces.arrays["pixels"])
        except UserError as error:
            raise BrokenFileError(f"{path}: {error}") from None
        writer.append("file", torch.full((count,), position))
        for key in pieces.arrays.keys() - {"pixels"}:
            writer.append(key, pieces.arrays[key])
        return pieces

    def _share_out(self, cache: Cached) -> dict[Split, Images]:
        whole = self.images(cache.arrays)
        rows = self.split_rows(cache.arrays, cache.notes["names"])
        for split in SPLITS:
            if not len(rows[split]):
                reasons = "".join(f"; {count} {reason}" for reason, count in cache.notes["left_out"].items())
                raise UserError(f"data.image_size={self.image_size}: nothing is left for the {split} split{reasons}")
        self._files = cache.arrays["file"]
        return {split: whole._replace(rows=rows[split]) for split in SPLITS}

    def manifest(self) -> Manifest:
        """Tiles of each file, and why others are missing."""
        names = self._notes["names"]
        splits = {}
        for split, images in self.splits.items():
            positions, counts = self._files[images.rows].unique(return_counts=True)
            splits[split] = {names[i]: n for i, n in zip(positions.tolist(), counts.tolist(), strict=True)}
        return {
            "splits": {str(split): counts for split, counts in splits.items()},
            "sources": self._notes["sources"],
            "left_out": self._notes["left_out"],
            "skipped": self._notes["skipped"],
        }


class FolderData(CachedFiles):
    """Images of one's own: any size, gray or RGB, 8 or 16 bits; 1.0 is the largest value of the file's type.

    Args:
        root: Folder of images, searched with its subfolders; only read.
        test_root: Folder of the test images; None takes some of `root`.
        group_pattern: Regular expression; files whose names agree in its first group stay in one split. A file that
            does not match, or every file if it is None, is a group of its own.
        split_by: `file` splits whole groups; `region` gives the right of each image to test, what is left of it to
            validation: for a few large images.
        fit: `tiles` cuts images into tiles of `image_size`, `resize` makes one image of each: its middle square.
        val_fraction: Share of the groups (or of each image's columns of tiles) that validates.
        test_fraction: Share that tests; unused where `test_root` is given.
        on_error: What to do about a file that cannot be used: `raise`, or `skip` it, count it and name it.
        cache_dir: Folder of the caches of decoded images; None is the user's cache folder.
        image_size: Side of the images in pixels.
        channels: 1 (gray) or 3 (RGB).
        **serving: How the images are served.
    """

    def __init__(
        self,
        *,
        root: ExistingFolder,
        test_root: ExistingFolder | None,
        group_pattern: str | None,
        split_by: Literal["file", "region"],
        fit: Literal["tiles", "resize"],
        val_fraction: OpenFraction,
        test_fraction: OpenFraction,
        on_error: Literal["raise", "skip"],
        cache_dir: str | None,
        image_size: ImageSize,
        channels: Literal[1, 3],
        **serving: Unpack[Serving],
    ) -> None:
        super().__init__(
            root=root, on_error=on_error, cache_dir=cache_dir, image_size=image_size, channels=channels, **serving
        )
        self.test_root = Path(test_root) if test_root else None
        self.pattern, self.split_by, self.fit = compiled(group_pattern), split_by, fit
        self.fractions = (val_fraction, test_fraction)

    def files(self) -> dict[str, Path]:
        """Names relative to their folder, those of `test_root` with `test/` before them."""
        found = {path.relative_to(self.root).as_posix(): path for path in list_images(self.root)}
        if self.test_root:
            paths = list_images(self.test_root)
            found = {name: path for name, path in found.items() if not path.is_relative_to(self.test_root)}
            found |= {f"test/{path.relative_to(self.test_root).as_posix()}": path for path in paths}
        return found

    def settings(self) -> dict[str, Any]:
        """Size, channels and fit."""
        return {"image_size": self.image_size, "channels": self.channels, "fit": self.fit}

    def read(self, name: str, path: Path) -> Pieces:
        """Tiles of an image, or its middle."""
        return self.pieces(read_image(path, self.channels))

    def pieces(self, image: Tensor) -> Pieces:
        """What an image (C, H, W) becomes; tiles with pixels that are no numbers are left out."""
        if self.fit == "resize":
            square = center_crop(resize(image, [self.image_size], antialias=True), [self.image_size] * 2)[None]
            return Pieces({"pixels": square, "start": torch.zeros(1, 2, dtype=torch.int64)}, {})
        tiles, starts = cut_tiles(image, self.image_size)
        finite = tiles.isfinite().flatten(1).all(1)
        left_out = {TOO_SMALL: int(not len(tiles)), NOT_FINITE: int((~finite).sum())}
        return Pieces({"pixels": tiles[finite], "start": starts[finite]}, left_out)

    def group_of(self, name: str) -> str:
        """The group that a file belongs to."""
        match = self.pattern.search(Path(name).name) if self.pattern else None
        return match.group(1) if match else name

    def split_rows(self, arrays: dict[str, Tensor], names: list[str]) -> dict[Split, Tensor]:
        """Rows by group or by region."""
        val, test = self.fractions
        of_file: dict[str, Split] = {name: "test" for name in names if self.test_root and name.startswith("test/")}
        others = [name for name in names if name not in of_file]
        if self.split_by == "file":
            groups = {name: self.group_of(name) for name in others}
            parts = split_groups(set(groups.values()), val, 0 if self.test_root else test, self.seed)
            of_file |= {name: parts[groups[name]] for name in others}
        file, column = arrays["file"], arrays["start"][:, 1]
        code = torch.tensor([SPLITS.index(of_file.get(name, "train")) for name in names])[file]
        if self.split_by == "region":
            for position in (names.index(name) for name in others):
                mine = file == position
                code[mine] = _regions(column[mine], val, 0 if self.test_root else test)
        return {split: (code == number).nonzero().flatten() for number, split in enumerate(SPLITS)}


def _regions(column: Tensor, val_fraction: float, test_fraction: float) -> Tensor:
    """Number of the split (n,) of each tile of one image: its last columns of tiles test, those before them validate.

    Tiles do not overlap. An image of too few columns is left to training.
    """
    columns, place = column.unique(return_inverse=True)
    num_val, num_test = (num_of(fraction, len(columns)) for fraction in (val_fraction, test_fraction))
    if num_val + num_test >= len(columns):
        return torch.zeros_like(place)
    from_right = len(columns) - 1 - place
    code = torch.where(from_right < num_val + num_test, SPLITS.index("val"), SPLITS.index("train"))
    return torch.where(from_right < num_test, SPLITS.index("test"), code)


def compiled(pattern: str | None, key: str = "data.group_pattern") -> re.Pattern[str] | None:
    """A regular expression with a group.

    Raises:
        UserError: If it is none.
    """
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"{key}={pattern}: not a regular expression ({error})") from None
    if not compiled.groups:
        raise UserError(f"{key}={pattern}: expected a group, as in ^(scene\\d+)_")
    return compiled
