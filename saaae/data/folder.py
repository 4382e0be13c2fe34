"""Images from a folder: cut into tiles or resized, cached, and split so that nothing is on two sides."""

import re
from collections import Counter
from pathlib import Path
from typing import Any, Literal, Unpack

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import center_crop, resize

from saaae.data.cached_files import CachedFiles, DecodedFile, FileSettings
from saaae.data.datamodule import SPLITS, Manifest
from saaae.data.files import num_of, read_levels, split_groups
from saaae.data.images import Images
from saaae.data.listing import (
    check_classes,
    class_of,
    folder_classes,
    images_below,
    listed,
    unread_images,
)
from saaae.data.tiles import cut_tiles
from saaae.errors import UserError, nearest
from saaae.ranges import ExistingFolder, ImageSize, OpenFraction
from saaae.types import Split

TEST = "test_root:"
"""Before the names of files from `test_root`."""

TOO_SMALL, NOT_FINITE = "images smaller than a tile", "tiles with pixels that are no numbers"


class FolderData(CachedFiles):
    """Images of one's own: any size, gray or RGB; 1.0 is the largest value of the file's type (255 or 65535).

    8-bit files stay bytes, 16-bit files keep all levels as float32. Files that use a part of 16 bits (12-bit cameras)
    are dark on this scale: `data=sar data.full_scale=4095` has a scale of its own.

    Args:
        test_root: Folder of the test images; None takes some of `root`.
        labels: `folders`: the class of an image is the sub-folder of `root` (or `test_root`) that it is in, directly
            or below; classes are numbered from 0 in the order of their names. A list names the classes in another
            order. None: images without classes.
        group_pattern: Regular expression; files whose names agree in its first group stay in one split. A file that
            does not match, or every file if it is None, is a group of its own.
        split_by: `file` splits whole groups; `region` gives the right of each image to test, what is left of it to
            validation: for a few large images.
        fit: `tiles` cuts images into tiles of `image_size`, `resize` makes one image of each: its middle square.
        val_fraction: Share of the groups (or of each image's columns of tiles) that validates.
        test_fraction: Share that tests; unused where `test_root` is given.
        image_size: Side of the images in pixels.
        channels: 1 (gray) or 3 (RGB).
        **files: How the files are read and their images served.
    """

    pattern_key = "group_pattern"

    def __init__(
        self,
        *,
        test_root: ExistingFolder | None,
        labels: Literal["folders"] | list[str] | None,
        group_pattern: str | None,
        split_by: Literal["file", "region"],
        fit: Literal["tiles", "resize"],
        val_fraction: OpenFraction,
        test_fraction: OpenFraction,
        image_size: ImageSize,
        channels: Literal[1, 3],
        **files: Unpack[FileSettings],
    ) -> None:
        super().__init__(
            image_size=image_size,
            channels=channels,
            **files,
        )
        self.test_root = Path(test_root) if test_root else None
        self.pattern, self.split_by, self.fit = compiled(group_pattern, self.pattern_key), split_by, fit
        self.fractions = (val_fraction, test_fraction)
        if labels is not None:
            names = folder_classes(self.root, self.test_root) if isinstance(labels, str) else labels
            check_classes(names, "data.labels")
            self.class_names, self.num_classes = names, len(names)

    def files(self) -> dict[str, Path]:
        """Names relative to their folder; those of `test_root` have a prefix, and a folder inside `root` is not its."""
        found = images_below(self.root, self.test_root)
        if self.test_root:
            apart = images_below(self.test_root, None, "data.test_root")
            found |= {TEST + name: path for name, path in apart.items()}
        return found

    def settings(self) -> dict[str, Any]:
        return {"image_size": self.image_size, "channels": self.channels, "fit": self.fit}

    def unread(self) -> dict[str, int]:
        counts = Counter(super().unread())
        if self.test_root and not self.test_root.resolve().is_relative_to(self.root.resolve()):
            counts += Counter(unread_images(self.test_root))
        return dict(counts)

    def read(self, name: str, path: Path) -> DecodedFile:
        """Tiles of an image, or its middle."""
        image = read_levels(path, self.channels)
        return self.pieces(image)._replace(kind="8-bit" if image.dtype == torch.uint8 else "16-bit")

    def pieces(self, image: Tensor) -> DecodedFile:
        """What an image (C, H, W) becomes; tiles with NaN or infinite pixels are left out."""
        if self.fit == "resize":
            square = middle_of(image, self.image_size)[None]
            return DecodedFile({"pixels": square, "start": torch.zeros(1, 2, dtype=torch.int64)}, {}, self.image_size)
        tiles, starts = cut_tiles(image, self.image_size)
        finite = tiles.isfinite().flatten(1).all(1)
        left_out = {TOO_SMALL: int(not len(tiles)), NOT_FINITE: int((~finite).sum())}
        return DecodedFile({"pixels": tiles[finite], "start": starts[finite]}, left_out, min(image.shape[1:]))

    def images(self, arrays: dict[str, Tensor]) -> Images:
        """Tiles, with the classes of their files where there are any."""
        if self.class_names is None:
            return super().images(arrays)
        labels = torch.tensor([self._label_of(name) for name in self._notes["names"]])
        return Images(arrays["pixels"], label=labels[arrays["file"]])

    def _label_of(self, name: str) -> int:
        """Number of a file's class.

        Raises:
            UserError: If it is in no sub-folder, or in one that is no class.
        """
        path, classes = self._paths[name], self.class_names or ()
        found = class_of(name.removeprefix(TEST), path)
        if found not in classes:
            known = f"{listed(classes)}{nearest(found, classes)}"
            raise UserError(f"data.labels: {path} is of the class {found}; expected one of {known}")
        return classes.index(found)

    def load(self) -> dict[Split, Images]:
        """Also checks that every class is trained.

        Raises:
            UserError: If no training image is of some class.
        """
        splits = super().load()
        label, names = splits["train"].label, self.class_names or ()
        if label is None or self.test_all:
            return splits
        trained = label[splits["train"].rows]
        for number, name in enumerate(names):
            if not (trained == number).any():
                others = int((label == number).sum())
                raise UserError(
                    f"data.labels: no training image of the class {name}, {others} in validation and test; "
                    "expected more images of it, or another seed"
                )
        return splits

    def describe(self) -> Manifest:
        """Also the names of the classes, where there are any."""
        manifest = super().describe()
        if self.class_names is not None:
            manifest["settings"] = {**manifest["settings"], "labels": list(self.class_names)}
        return manifest

    def group_of(self, name: str) -> str:
        match = self.pattern.search(Path(name).name) if self.pattern else None
        return (match and match.group(1)) or name

    def split_rows(self, arrays: dict[str, Tensor], names: list[str]) -> dict[Split, Tensor]:
        """Rows by group or by region."""
        if self.test_all and not self.test_root:
            none = torch.zeros(0, dtype=torch.int64)
            return {"train": none, "val": none, "test": torch.arange(len(arrays["file"]))}
        val, test = self.fractions
        of_file: dict[str, Split] = {name: "test" for name in names if name.startswith(TEST)}
        others = [name for name in names if name not in of_file]
        if self.split_by == "file":
            groups = {name: self.group_of(name) for name in others}
            if self.pattern and all(group == name for name, group in groups.items()):
                raise UserError(
                    f"data.{self.pattern_key}={self.pattern.pattern}: its group matches in none of {len(others)} file "
                    "names; expected another pattern, or null to split file by file"
                )
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


def middle_of(image: Tensor, size: int) -> Tensor:
    """The middle square of an image (C, H, W), resized to `size` pixels."""
    return center_crop(resize(image, [size], antialias=True), [size] * 2)


def compiled(pattern: str | None, key: str) -> re.Pattern[str] | None:
    """A regular expression with a group.

    Raises:
        UserError: If it is none.
    """
    if pattern is None:
        return None
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UserError(f"data.{key}={pattern}: not a regular expression ({error})") from None
    if not expression.groups:
        raise UserError(f"data.{key}={pattern}: expected a group, as in ^(scene\\d+)_")
    return expression
