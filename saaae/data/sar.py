"""Real SAR images from a folder, cut into tiles and split by scene."""

import random
import re
from collections import defaultdict
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from saaae.data.corruption import Corruption
from saaae.data.datamodule import SPLITS, ImageDataModule, Images
from saaae.data.tiles import cut_tiles
from saaae.errors import UserError
from saaae.ranges import ExistingFolder, ImageSize, NonNegativeInt, OpenFraction, PositiveInt
from saaae.types import Split

Image.MAX_IMAGE_PIXELS = None  # a radar scene is larger than what Pillow takes for an attack
EIGHT_BIT = ("1", "L", "LA", "P", "RGB", "RGBA")
EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".png")


def list_images(root: Path) -> list[Path]:
    """Image files in `root` and below, sorted.

    Raises:
        UserError: If the folder is missing or holds no image.
    """
    if not root.is_dir():
        raise UserError(f"data.root={root}: no such folder; point data.root, data_dir or SAAAE_DATA_DIR at the images")
    paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in EXTENSIONS)
    if not paths:
        raise UserError(f"data.root={root}: no image in it; expected files ending in {', '.join(EXTENSIONS)}")
    return paths


def read_gray(path: Path) -> Tensor:
    """An 8-bit image (1, H, W), uint8; equal colour channels count as gray.

    Raises:
        UserError: If the file is no readable image.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in EIGHT_BIT:
                raise UserError(f"{path}: an image of mode {image.mode}; expected 8 bits a pixel, gray or colour")
            return torch.from_numpy(np.array(image.convert("L")))[None]
    except (OSError, SyntaxError, UnidentifiedImageError) as error:
        reason = "no known image format" if isinstance(error, UnidentifiedImageError) else error
        raise UserError(f"{path}: not a readable image ({reason}); replace or remove it") from None


def split_scenes(scenes: list[str], val_fraction: float, test_fraction: float, seed: int) -> dict[str, Split]:
    """Which split each scene belongs to: a function of the names and the seed, at least one scene in each split.

    Raises:
        UserError: If there are fewer than three scenes, or the fractions leave nothing to train on.
    """
    order = sorted(scenes)
    random.Random(seed).shuffle(order)
    num_val, num_test = (max(1, round(fraction * len(order))) for fraction in (val_fraction, test_fraction))
    if num_val + num_test >= len(order):
        raise UserError(
            f"data.val_fraction={val_fraction}, data.test_fraction={test_fraction}: "
            f"{len(order)} scenes cannot be split into three; expected more scenes or smaller fractions"
        )
    parts: dict[str, Split] = dict.fromkeys(order, "train")
    parts |= dict.fromkeys(order[:num_val], "val")
    return parts | dict.fromkeys(order[num_val : num_val + num_test], "test")


class SARData(ImageDataModule):
    """Tiles of 8-bit SAR magnitude images; 1.0 is the largest 8-bit value.

    Tiles of one scene touch, so train, validation and test are split by scene.

    Args:
        root: Folder of images, searched with its subfolders; only read.
        scene_pattern: Regular expression; its first group in a file's name is the scene. A file that does not match is
            a scene of its own.
        val_fraction: Share of the scenes that validates.
        test_fraction: Share of the scenes that tests.
        image_size: Side of a tile in pixels.
        channels: 1.
        batch_size: Images a batch.
        num_workers: Loader processes.
        seed: Seed of the split, the order and the evaluation noise.
        corruption: What happens to the input on its way to the model.
    """

    def __init__(
        self,
        *,
        root: ExistingFolder,
        scene_pattern: str,
        val_fraction: OpenFraction,
        test_fraction: OpenFraction,
        image_size: ImageSize,
        channels: Literal[1],
        batch_size: PositiveInt,
        num_workers: NonNegativeInt,
        seed: NonNegativeInt,
        corruption: Corruption,
    ) -> None:
        super().__init__(
            image_size=image_size,
            channels=channels,
            batch_size=batch_size,
            num_workers=num_workers,
            seed=seed,
            corruption=corruption,
        )
        try:
            self.root, self.pattern = Path(root), re.compile(scene_pattern)
        except re.error as error:
            raise UserError(f"data.scene_pattern={scene_pattern}: not a regular expression ({error})") from None
        if not self.pattern.groups:
            raise UserError(f"data.scene_pattern={scene_pattern}: expected a group, as in ^(scene\\d+)_")
        self.fractions = (val_fraction, test_fraction)

    def scene_of(self, path: Path) -> str:
        """The scene that an image file belongs to."""
        match = self.pattern.search(path.name)
        return match.group(1) if match else path.stem

    def load(self) -> dict[Split, Images]:
        """Reads and cuts all images."""
        tiles: dict[str, list[Tensor]] = defaultdict(list)
        for path in list_images(self.root):
            tiles[self.scene_of(path)].append(cut_tiles(read_gray(path), self.image_size))
        parts = split_scenes(list(tiles), *self.fractions, self.seed)
        splits: dict[Split, Images] = {}
        for split in SPLITS:
            chosen = [tile for scene in sorted(tiles) if parts[scene] == split for tile in tiles[scene]]
            splits[split] = Images(torch.cat(chosen))
            if not len(splits[split].pixels):
                raise UserError(f"data.image_size={self.image_size}: no image of the {split} split holds such a tile")
        return splits
