"""SAR images from a folder: one scale for every sensor, tiles split by scene, alone or with a cleaner reference."""

import math
import os
from pathlib import Path
from typing import Any, Literal, Unpack

import numpy as np
import torch
from torch import Tensor

from saaae.data.cached_files import DecodedFile, FileSettings
from saaae.data.files import BrokenFileError, read_array
from saaae.data.folder import FolderData
from saaae.data.images import Images, RawBatch, to_unit_range
from saaae.data.listing import images_below
from saaae.errors import UserError, nearest
from saaae.ranges import ExistingFolder, FiniteFloat, ImageSize, NonNegativeInt, OpenFraction, Target
from saaae.rng import RandomSource
from saaae.types import Batch, Split

Scale = Literal["amplitude", "intensity", "decibel"]
SMALLEST_WINDOW = 8
"""Least rows and columns in one tile on which a number of looks is measured."""


def to_amplitude(values: np.ndarray, scale: Scale, full_scale: float, clip: bool = True) -> np.ndarray:
    """Amplitude on the scale of the models: 1.0 is the file's value `full_scale`.

    The one place where a sensor's scale is converted: amplitude v / f, intensity sqrt(v / f), decibel
    10^((v - f) / 20). Negative amplitudes and intensities (after noise subtraction) become 0; infinities other than
    -inf dB become NaN and are kept.

    Args:
        values: Pixels as stored.
        scale: What they are.
        full_scale: The stored value that becomes 1.0.
        clip: Whether what is above it becomes 1.0 too.

    Returns:
        Amplitude in [0, 1], or at least 0 without `clip`, float32.
    """
    v = values.astype(np.float64)
    v[np.isinf(v) & ((v > 0) | (scale != "decibel"))] = np.nan
    if scale == "decibel":
        amplitude = 10.0 ** ((v - full_scale) / 20.0)
    else:
        amplitude = np.maximum(v / full_scale, 0.0)
        amplitude = np.sqrt(amplitude) if scale == "intensity" else amplitude
    return (np.minimum(amplitude, 1.0) if clip else amplitude).astype(np.float32)


def from_amplitude(amplitude: np.ndarray, scale: Scale, full_scale: float) -> np.ndarray:
    """Stored values of amplitudes, float64: the inverse of `to_amplitude`."""
    a = amplitude.astype(np.float64)
    if scale == "decibel":
        return 20.0 * np.log10(np.maximum(a, 1e-6)) + full_scale
    return full_scale * (a**2 if scale == "intensity" else a)


def check_gray(path: Path, values: np.ndarray) -> None:
    """Checks that the channels of pixels (..., C) are equal.

    Raises:
        BrokenFileError: If the image has colours.
    """
    if not np.array_equal(values, np.broadcast_to(values[..., :1], values.shape), equal_nan=values.dtype.kind == "f"):
        raise BrokenFileError(f"{path}: a colour image; expected one channel, or equal ones")


def sar_image(path: Path, values: np.ndarray, scale: Scale, full_scale: float | None) -> Tensor:
    """Amplitude image (1, H, W): uint8 where the file holds 8-bit amplitudes up to 255, else float32 in [0, 1].

    Args:
        path: The file, for messages.
        values: Its pixels; several channels must be equal.
        scale: What they are.
        full_scale: The stored value that becomes 1.0; None is the largest value of 8 or 16 unsigned bits.

    Raises:
        BrokenFileError: If the image has colours.
        UserError: If the settings leave open what 1.0 is, or cannot be meant.
    """
    if values.ndim == 3:
        check_gray(path, values)
        values = values[..., 0]
    if scale != "decibel" and (values < 0).mean() > 0.5:
        raise UserError(f"data.scale={scale}: most pixels of {path} are negative; did you mean data.scale=decibel?")
    if full_scale is None:
        if values.dtype not in (np.uint8, np.uint16) or scale == "decibel":
            high = np.nanpercentile(values, 99) if np.isfinite(values).any() else math.nan
            raise UserError(
                f"data.full_scale=null: {path} holds {values.dtype} pixels ({scale}); expected the value that becomes "
                f"1.0, brighter ones are clipped (99 % of this image are below {high:.3g})"
            )
        full_scale = float(np.iinfo(values.dtype).max)
    if values.dtype == np.uint8 and scale == "amplitude" and full_scale == 255:
        return torch.from_numpy(values.copy())[None]
    return torch.from_numpy(to_amplitude(values, scale, full_scale))[None]


def paired(raw: RawBatch, rng: RandomSource, target: str) -> Batch:
    """The image as input; the image, or with `target` clean or second its reference, as target."""
    x = to_unit_range(raw.pixels)
    if raw.reference is None:
        return Batch(x, x, raw.indices, rng, raw.label, window=raw.window)
    clean = to_unit_range(raw.reference)
    if target == "second":
        return Batch(x, clean, raw.indices, rng, raw.label, window=raw.window)
    return Batch(x, clean if target == "clean" else x, raw.indices, rng, raw.label, clean=clean, window=raw.window)


class SARData(FolderData):
    """Tiles of SAR amplitude images; 1.0 is `full_scale`.

    Tiles of one scene touch, so train, validation and test are split by scene.

    Args:
        reference_root: Folder with a cleaner image of the same name and size for each image (multi-temporal mean, a
            despeckled estimate); None for images alone.
        target: `noisy`: an autoencoder of the images. `clean`: the reference is the target. `second`: the same for
            references with independent speckle of their own (another look or date of the scene), which the metrics do
            not call clean: for `likelihood=speckle`.
        scale: What the pixels of the files are: `amplitude`, `intensity` or `decibel`.
        full_scale: The stored value that becomes 1.0; None is the largest value of 8 or 16 unsigned bits.
        enl_windows: Homogeneous rectangles on which the equivalent number of looks is measured: top, left, height and
            width by file name, one per file; None searches one in each tile.
        scene_pattern: Regular expression; its first group in a file's name is the scene. A file that does not match is
            a scene of its own.
        split_by: `file` splits whole scenes; `region` gives the right of each image to test, what is left of it to
            validation: for a few large images.
        val_fraction: Share of the scenes (or of each image's columns of tiles) that validates.
        test_fraction: Share that tests.
        image_size: Side of a tile in pixels.
        channels: 1.
        **files: How the files are read and their images served.
    """

    domain = "radar"
    pattern_key = "scene_pattern"

    def __init__(
        self,
        *,
        reference_root: ExistingFolder | None,
        target: Target[Literal["noisy", "clean", "second"]],
        scale: Literal["amplitude", "intensity", "decibel"],
        full_scale: FiniteFloat | None,
        enl_windows: dict[str, list[NonNegativeInt]] | None,
        scene_pattern: str | None,
        split_by: Literal["file", "region"],
        val_fraction: OpenFraction,
        test_fraction: OpenFraction,
        image_size: ImageSize,
        channels: Literal[1],
        **files: Unpack[FileSettings],
    ) -> None:
        super().__init__(
            test_root=None,
            labels=None,
            group_pattern=scene_pattern,
            split_by=split_by,
            fit="tiles",
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            image_size=image_size,
            channels=channels,
            **files,
        )
        if target != "noisy" and not reference_root:
            raise UserError(f"data.target={target}: needs the other images of data.reference_root")
        if full_scale is not None and full_scale <= 0 and scale != "decibel":
            raise UserError(f"data.full_scale={full_scale}: expected greater than 0 for data.scale={scale}")
        self.reference_root, self.target = Path(reference_root) if reference_root else None, target
        self.scale, self.full_scale, self.enl_windows = scale, full_scale, enl_windows

    def files(self) -> dict[str, Path]:
        """Names relative to the folder; references in a subfolder of it are not images of their own."""
        return images_below(self.root, self.reference_root)

    def companions(self, name: str) -> list[Path]:
        """The reference of an image.

        Raises:
            BrokenFileError: If there is none.
        """
        if self.reference_root is None:
            return []
        path = self.reference_root / name
        if not os.path.isfile(path):
            raise BrokenFileError(
                f"{path}: no such file; data.reference_root must hold a reference of each image by its name"
            )
        return [path]

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"scale": self.scale, "full_scale": self.full_scale}

    def read(self, name: str, path: Path) -> DecodedFile:
        """Tiles of an image and of its reference; those with NaN or infinite pixels are left out."""
        stored = {part: read_array(part) for part in (path, *self.companions(name))}
        images = [sar_image(part, values, self.scale, self.full_scale) for part, values in stored.items()]
        if len({image.shape for image in images}) > 1:
            sizes = " and ".join(f"{image.shape[2]}x{image.shape[1]}" for image in images)
            raise BrokenFileError(f"{path}: the image and its reference are {sizes} pixels; expected one size")
        if len({image.dtype for image in images}) > 1:
            images = [to_unit_range(image) for image in images]
        pieces = self.pieces(torch.cat(images))
        pairs = dict(zip(("pixels", "reference"), pieces.arrays["pixels"].split(1, dim=1), strict=False))
        return pieces._replace(arrays=pieces.arrays | pairs, kind=" with ".join(str(v.dtype) for v in stored.values()))

    def images(self, arrays: dict[str, Tensor]) -> Images:
        """Tiles with their references and windows, where there are any."""
        return Images(arrays["pixels"], reference=arrays.get("reference"), window=self.windows(arrays))

    def load(self) -> dict[Split, Images]:
        """Also checks that the windows lie in test tiles.

        Raises:
            UserError: If no test tile has one.
        """
        splits = super().load()
        test = splits["test"]
        if test.window is not None and not test.window[test.rows][:, 2].any():
            names = sorted({self._notes["names"][i] for i in self._files[test.rows].unique().tolist()})
            raise UserError(f"data.enl_windows: no window lies in a test image; these are {', '.join(names[:5])}, ...")
        return splits

    def windows(self, arrays: dict[str, Tensor]) -> Tensor | None:
        """What of its file's window lies in each tile (N, 4); height 0 where that is less than SMALLEST_WINDOW.

        Raises:
            UserError: If a window is of no file, no rectangle, or in no tile.
        """
        if self.enl_windows is None:
            return None
        names, start = self._notes["names"], arrays["start"]
        found = torch.zeros(len(start), 4, dtype=torch.int64)
        for name, window in self.enl_windows.items():
            if name not in names:
                raise UserError(f"data.enl_windows: no file {name}{nearest(name, names)}")
            if len(window) != 4:
                raise UserError(f"data.enl_windows: {name}: {window}; expected top, left, height and width")
            corner, size = torch.tensor(window).view(2, 2)
            first = (corner - start).clamp(0, self.image_size)
            inside = torch.cat([first, (corner + size - start).clamp(0, self.image_size) - first], 1)
            fits = (arrays["file"] == names.index(name)) & (inside[:, 2:] >= SMALLEST_WINDOW).all(1)
            if not fits.any():
                raise UserError(
                    f"data.enl_windows: {name}: {window} covers {SMALLEST_WINDOW} x {SMALLEST_WINDOW} pixels of no tile"
                )
            found[fits] = inside[fits]
        return found

    def present(self, raw: RawBatch, rng: RandomSource) -> Batch:
        """The image as input; the image or the reference as target."""
        return paired(raw, rng, self.target)
