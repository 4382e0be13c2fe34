"""AITEX fabric images (Silvestre-Blanes et al. 2019): strips of woven fabric, normal and defective."""

import re
from collections import defaultdict
from pathlib import Path
from typing import Any, Literal, NamedTuple, Unpack

import numpy as np
import torch
from torch import Tensor

from saaae.data.cached_files import CachedFiles, DecodedFile, FileSettings
from saaae.data.crops import random_crops
from saaae.data.datamodule import SPLITS
from saaae.data.files import BrokenFileError, read_image, split_groups
from saaae.data.images import UNKNOWN_LABEL, UNKNOWN_MASK, Images, Masks
from saaae.data.listing import list_images
from saaae.data.tiles import cut_tiles, tile_starts
from saaae.errors import UserError, nearest
from saaae.ranges import ImageSize, NonNegativeFloat, OpenFraction, PositiveInt
from saaae.types import Batch, Split

SOUND, DEFECTIVE, MASKS = "NODefect_images", "Defect_images", "Mask_images"
NAME = re.compile(r"^(?P<number>\d{4})_(?P<defect>\d{2,3})_(?P<fabric>\d{2})$")
MASK_NAME = re.compile(r"_mask\d*$")
NO_FABRIC = "tiles without fabric"
WHITE = 255
WINDOW = 32
"""Columns over which the texture is averaged to find the edge of the fabric."""


class Strip(NamedTuple):
    """The parts of a strip's name.

    Attributes:
        fabric: Code of the fabric.
        defect: Code of the defect; 0 for none.
    """

    fabric: int
    defect: int


def strip_of(path: Path) -> Strip:
    """Fabric and defect of a file name `nnnn_ddd_ff.png`; one file has a defect code of two digits.

    Raises:
        BrokenFileError: If the name has another form.
    """
    match = NAME.match(path.stem)
    if not match:
        raise BrokenFileError(f"{path}: expected a name like 0001_000_05.png (number, defect code, fabric code)")
    return Strip(int(match["fabric"]), int(match["defect"]))


def fabric_start(strip: Tensor) -> int:
    """First column of a strip that shows fabric; left of it is white padding or the background of the machine.

    Padding is pure white. The background is smooth along a row: its mean difference of horizontal neighbours, over
    WINDOW columns, is below half of the fabric's (the median over the right half), or below three quarters of it
    where the brightness is also a tenth off the fabric's. Checked by eye on the 160 public strips.

    Args:
        strip: Gray image (1, H, W), uint8.
    """
    pixels = strip[0].numpy()
    white = (pixels == WHITE).mean(0)
    if white[0] > 0.5:
        fabric = white <= 0.05
        return int(fabric.argmax()) if fabric.any() else pixels.shape[1]
    if pixels.shape[1] < 4 * WINDOW:
        return 0
    average = np.ones(WINDOW) / WINDOW
    gradient = np.abs(np.diff(pixels.astype(np.float32), axis=1)).mean(0)
    texture = np.convolve(gradient, average, "valid")
    brightness = np.convolve(pixels.mean(0)[1:], average, "valid")
    relative = texture / max(float(np.median(texture[len(texture) // 2 :])), 1e-6)
    off = np.abs(brightness / max(float(np.median(brightness[len(brightness) // 2 :])), 1e-6) - 1)
    background = (relative < 0.5) | ((relative < 0.75) & (off > 0.1))
    if not background[:WINDOW].any():
        return 0
    first = int(background.argmax())
    after = ~background[first:]
    if not after.any():
        return pixels.shape[1]
    edge = first + int(after.argmax())  # the first window with enough fabric in it: where in it does the fabric begin?
    halfway = (np.median(texture[: edge + 1]) + np.median(texture[len(texture) // 2 :])) / 2
    smooth = np.convolve(gradient, np.ones(5) / 5, "same")[edge : edge + WINDOW] < halfway
    return edge + int(smooth.nonzero()[0].max(initial=-1)) + 1


def split_strips(strips: dict[str, Strip], val_fraction: float, test_fraction: float, seed: int) -> dict[str, Split]:
    """Split of each strip: normal strips are split within each fabric, defective ones are test strips.

    Raises:
        UserError: If a fabric has too few normal strips for three splits.
    """
    by_fabric: dict[int, list[str]] = defaultdict(list)
    parts: dict[str, Split] = {}
    for name, strip in sorted(strips.items()):
        if name.startswith(DEFECTIVE):
            parts[name] = "test"
        else:
            by_fabric[strip.fabric].append(name)
    for fabric, names in sorted(by_fabric.items()):
        what = f"normal strips of fabric {fabric:02d}"
        parts |= split_groups(names, val_fraction, test_fraction, f"{seed}-{fabric}", what)
    return parts


class AITEXData(CachedFiles):
    """Tiles of AITEX fabric: normal ones for training and validation, normal and defective ones for test; 1.0 is white.

    Strips are split whole, with every fabric in all splits. Test tiles have a mask and a label: 1 with a defect in the
    tile, 0 without, -1 on a defective strip whose mask is missing or empty. Tiles begin where the fabric does.

    Args:
        val_fraction: Share of each fabric's normal strips for validation.
        test_fraction: Share that tests.
        test_steps: Test tiles begin every image_size / test_steps pixels, and one is flush with the right end;
            training and validation tiles do not overlap.
        crop: Side in pixels of the squares that training cuts from its tiles at random, mirrored, shaded and with
            noise (`random_crops`); None trains on whole tiles.
        crop_noise: Largest standard deviation of that noise, in standard deviations of the crop.
        image_size: Side of a tile in pixels, at most 256.
        channels: 1.
        **files: How the files are read and their images served.
    """

    domain = "fabric"

    def __init__(
        self,
        *,
        val_fraction: OpenFraction,
        test_fraction: OpenFraction,
        test_steps: PositiveInt,
        crop: ImageSize | None,
        crop_noise: NonNegativeFloat,
        image_size: ImageSize,
        channels: Literal[1],
        **files: Unpack[FileSettings],
    ) -> None:
        super().__init__(
            image_size=image_size,
            channels=channels,
            **files,
        )
        if image_size % test_steps:
            raise UserError(f"data.test_steps={test_steps}: expected a divisor of data.image_size={image_size}")
        if crop is not None and crop > image_size:
            raise UserError(f"data.crop={crop}: expected at most data.image_size={image_size}")
        self.crop, self.crop_noise = crop, crop_noise
        self._masks: dict[str, list[Path]] = {}
        self.fractions, self.stride = (val_fraction, test_fraction), image_size // test_steps

    def load(self) -> dict[Split, Images]:
        """Keeps the masks of the test split only; the other splits hold no defects."""
        splits = super().load()
        return {split: part if split == "test" else part._replace(masks=None) for split, part in splits.items()}

    def augmented(self, batch: Batch) -> Batch:
        """Crops of the tiles, for which they are read whole."""
        if self.crop is None:
            return batch
        x = random_crops(batch.target, self.crop, self.crop_noise, batch.rng)
        return batch._replace(input=x, target=x)

    def files(self) -> dict[str, Path]:
        """Normal strips, then defective ones, by their path below the root.

        Raises:
            UserError: If the folder has another layout.
        """
        for folder in (SOUND, DEFECTIVE, MASKS):
            if not (self.root / folder).is_dir():
                hint = nearest(folder, (path.name for path in self.root.iterdir()))
                raise UserError(
                    f"data.root={self.root}: no folder {folder} in it; expected the original layout of AITEX, with "
                    f"{SOUND}/<fabric>, {DEFECTIVE} and {MASKS}{hint}"
                )
        paths = [path for folder in (SOUND, DEFECTIVE) for path in list_images(self.root / folder)]
        found = {path.relative_to(self.root).as_posix(): path for path in paths}
        self._masks = self._find_masks({path.stem for name, path in found.items() if name.startswith(DEFECTIVE)})
        return found

    def _find_masks(self, strips: set[str]) -> dict[str, list[Path]]:
        """The masks of each strip.

        Raises:
            UserError: If a mask belongs to no strip, which would otherwise count as unknown.
        """
        masks: dict[str, list[Path]] = defaultdict(list)
        for path in list_images(self.root / MASKS):
            strip = MASK_NAME.sub("", path.stem)
            if strip not in strips or strip == path.stem:
                raise UserError(
                    f"{path}: a mask of no strip in {DEFECTIVE}; expected the strip's name and _mask, _mask1 or _mask2"
                )
            masks[strip].append(path)
        return masks

    def companions(self, name: str) -> list[Path]:
        """The masks of a defective strip: none, one or several."""
        return [] if name.startswith(SOUND) else self._masks.get(Path(name).stem, [])

    def settings(self) -> dict[str, Any]:
        return {"image_size": self.image_size, "stride": self.stride}

    def read(self, name: str, path: Path) -> DecodedFile:
        """Overlapping tiles of a strip from where its fabric begins, with labels, masks and codes."""
        strip, image = strip_of(path), read_image(path, 1)
        defective = name.startswith(DEFECTIVE)
        mask = self.mask(image, self.companions(name)) if defective else torch.zeros_like(image)
        start = fabric_start(image)
        tiles, starts = cut_tiles(image[..., start:], self.image_size, self.stride, cover=True)
        masks, _ = cut_tiles(mask[..., start:], self.image_size, self.stride, cover=True)
        codes = masks.flatten(1).amax(1).long() if len(masks) else torch.zeros(0, dtype=torch.int64)
        alone = (starts % self.image_size == 0).all(1)
        order = (~alone).int().argsort(stable=True)  # training reads only the tiles without overlap: keep them together
        rows = len(tile_starts(image.shape[1], self.image_size, self.image_size))
        arrays = {
            "pixels": tiles[order],
            "start": starts[order] + torch.tensor([0, start]),
            "label": torch.where(codes == UNKNOWN_MASK, UNKNOWN_LABEL, codes)[order],
            "marked": masks[order][codes[order] == 1],
            "alone": alone[order],
            "fabric": torch.full((len(tiles),), strip.fabric),
            "defect": torch.full((len(tiles),), strip.defect),
        }
        return DecodedFile(arrays, {NO_FABRIC: start // self.image_size * rows}, min(image.shape[1:]))

    def mask(self, image: Tensor, paths: list[Path]) -> Tensor:
        """Defective pixels (1, H, W), uint8, 0 or 1: what any of the masks marks; UNKNOWN_MASK where none marks any.

        Raises:
            BrokenFileError: If a mask is of another size.
        """
        marked = torch.zeros_like(image)
        for path in paths:
            mask = read_image(path, 1)
            if mask.shape != image.shape:
                sizes = (f"{shape[2]}x{shape[1]}" for shape in (mask.shape, image.shape))
                raise BrokenFileError(f"{path}: the mask is {' pixels, its image '.join(sizes)}; expected one size")
            marked |= (mask > WHITE // 2).to(torch.uint8)  # masks have smoothed edges
        return marked if marked.any() else torch.full_like(image, UNKNOWN_MASK)

    def split_rows(self, arrays: dict[str, Tensor], names: list[str]) -> dict[Split, Tensor]:
        """Whole strips, from left to right; without overlap outside the test split."""
        parts = split_strips({name: strip_of(Path(name)) for name in names}, *self.fractions, self.seed)
        code = torch.tensor([SPLITS.index(parts[name]) for name in names])[arrays["file"]]
        top, left = arrays["start"].unbind(1)
        order = torch.from_numpy(np.lexsort((left, top, arrays["file"])))
        chosen = {split: code == number for number, split in enumerate(SPLITS)}
        return {
            split: order[(mine if split == "test" else mine & arrays["alone"])[order]] for split, mine in chosen.items()
        }

    def images(self, arrays: dict[str, Tensor]) -> Images:
        """Tiles with labels, masks and codes; tiles without a mark share one mask, unknown ones another."""
        size, label = (1, 1, self.image_size, self.image_size), arrays["label"]
        shared = torch.zeros(size, dtype=torch.uint8), torch.full(size, UNKNOWN_MASK, dtype=torch.uint8)
        row = torch.where(label == UNKNOWN_LABEL, 1, 0)
        row[label == 1] = torch.arange(int((label == 1).sum())) + len(shared)
        return Images(
            arrays["pixels"],
            label=label,
            masks=Masks(torch.cat([*shared, arrays["marked"]]), row),
            fabric=arrays["fabric"],
            defect=arrays["defect"],
        )
