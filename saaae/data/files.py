"""Image files: reading them and assigning them to splits."""

import io
import logging
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import numpy as np
import tifffile
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from saaae.data.cache import content_digest
from saaae.errors import UserError
from saaae.types import Split

Image.MAX_IMAGE_PIXELS = None  # a radar scene is larger than Pillow's limit against decompression bombs
logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # its errors are raised here
LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a gray level (ITU-R 601)."""

T = TypeVar("T")


class BrokenFileError(UserError):
    """One file cannot be used."""


class BrokenFiles:
    """Handles unusable files: stops at the first, or continues and keeps a list.

    Args:
        skip: Whether to continue without it.
    """

    def __init__(self, skip: bool) -> None:
        self.skip = skip
        self.reasons: dict[str, str] = {}

    def attempt(self, name: str, read: Callable[[], T]) -> T | None:
        """Result of `read`, or None where the file is broken and such files are skipped.

        Raises:
            UserError: If they are not.
        """
        try:
            return read()
        except BrokenFileError as error:
            if not self.skip:
                raise UserError(f"{error}; or leave such files out with data.on_error=skip") from None
            self.reasons[name] = str(error)
            return None


def digest_of(path: Path) -> str:
    """Digest of a file's content.

    Raises:
        BrokenFileError: If the file cannot be read.
    """
    try:
        return content_digest(path.read_bytes())
    except OSError as error:
        raise BrokenFileError(f"{path}: cannot be read ({error.strerror}); mend or remove it") from None


def read_array(path: Path, content: bytes | None = None) -> np.ndarray:
    """Pixels of an image file as they are stored: (H, W) or (H, W, 3), integers or floats.

    Transparency is left out, palettes become colours, and NPY files may have their channels first or last.

    Args:
        path: The file.
        content: Its bytes, where they are in memory: then the path only tells its kind, and nothing is opened.

    Raises:
        BrokenFileError: If the file is not a readable image, or several.
        UserError: If the file system fails.
    """
    try:
        source = path if content is None else io.BytesIO(content)
        ending = path.suffix.lower()
        pixels = np.load(source, allow_pickle=False) if ending == ".npy" else _decode(source, ending)
        if not pixels.size:
            raise ValueError("no pixels in it")
    except MemoryError:
        raise UserError(f"{path}: too large for this machine's memory; cut it into smaller images") from None
    except Exception as error:  # decoders of foreign bytes raise anything
        if isinstance(error, OSError) and error.errno:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from None
        reason = "no known image format" if isinstance(error, UnidentifiedImageError) else error
        raise BrokenFileError(f"{path}: not a readable image ({reason}); replace or remove it") from None
    if pixels.ndim == 3 and pixels.shape[-1] > 3 and pixels.shape[0] in (1, 3):
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim != 2 and not (pixels.ndim == 3 and pixels.shape[-1] == 3):
        raise BrokenFileError(
            f"{path}: an array of shape {pixels.shape}; expected one image, gray or with three channels"
        )
    if pixels.dtype.kind not in "uif":
        raise BrokenFileError(f"{path}: {pixels.dtype} pixels; expected integers or floats")
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def image_sizes(content: bytes, ending: str) -> list[tuple[int, int]]:
    """Width and height of all images in the bytes of a file, none of them decoded.

    Args:
        content: The bytes.
        ending: That of the file's name, as in `read_array`; not .npy, which is not packed.

    Raises:
        BrokenFileError: If it is no image.
    """
    try:
        if ending in (".tif", ".tiff"):
            with tifffile.TiffFile(io.BytesIO(content)) as file:
                return [(page.imagewidth, page.imagelength) for page in (page.aspage() for page in file.pages)]
        with Image.open(io.BytesIO(content)) as image:
            return [image.size]
    except Exception:  # decoders of foreign bytes raise anything
        raise BrokenFileError("not a readable image") from None


def _decode(source: Path | io.BytesIO, ending: str) -> np.ndarray:
    """Pixels of an image file: TIFF by tifffile, which keeps their type, the others by Pillow."""
    if ending in (".tif", ".tiff"):
        return _decode_tiff(source)
    with Image.open(source) as image:
        if ";16" in str(image.tile) and image.mode in ("RGB", "RGBA", "LA"):
            raise ValueError("16 bits in several channels, of which Pillow keeps 8; expected one channel or TIFF")
        if image.format == "WEBP" and (count := getattr(image, "n_frames", 1)) > 1:
            raise ValueError(f"{count} images in one file")
        pixels = _pillow_pixels(ImageOps.exif_transpose(image))
        return pixels.astype(np.uint16) if image.format == "PNG" and image.mode == "I" else pixels


def _decode_tiff(source: Path | io.BytesIO) -> np.ndarray:
    with tifffile.TiffFile(source) as file:
        pages = [page for page in (page.aspage() for page in file.pages) if not page.is_reduced]  # no smaller copies
        if len(pages) != 1:
            raise ValueError(f"{len(pages)} pages; expected one image")
        page = pages[0]
        plain = page.photometric in (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB)
        try:
            pixels = page.asarray() if plain else None
        except ValueError:  # a compression that tifffile leaves to others
            pixels = None
        bits, is_unsigned = page.bitspersample, page.sampleformat == tifffile.SAMPLEFORMAT.UINT
        if pixels is not None:
            return pixels[..., :-1] if page.extrasamples and page.planarconfig == 1 else pixels
    with Image.open(source) as image:
        held = {"L": 8, "P": 8, "RGB": 8, "RGBA": 8, "LA": 8, "1": 1, "I;16": 16, "F": 32}.get(image.mode)
        if held != bits or is_unsigned == (image.mode == "F"):
            raise ValueError(f"compression {page.compression} of {page.dtype}; expected it uncompressed")
        return _pillow_pixels(image)


def _pillow_pixels(image: Image.Image) -> np.ndarray:
    as_stored = image.mode in ("L", "RGB", "F") or image.mode.startswith("I")
    return np.array(image if as_stored else image.convert("L" if image.mode in ("1", "LA", "La") else "RGB"))


def to_bytes(path: Path, pixels: np.ndarray) -> np.ndarray:
    """8-bit pixels of integers of 8 or 16 bits, the higher byte of the latter.

    Raises:
        BrokenFileError: If the pixels are of another kind: only a sensor's scale can tell what they mean.
    """
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == np.uint16:
        return (pixels >> 8).astype(np.uint8)
    raise BrokenFileError(f"{path}: {pixels.dtype} pixels; expected 8 or 16 bits, or data=sar with data.full_scale")


def read_image(path: Path, channels: int) -> Tensor:
    """An image (C, H, W), uint8: gray, colours weighted by their luminance (ITU-R 601), or RGB.

    Raises:
        BrokenFileError: If the file is not a readable image of 8 or 16 bits.
    """
    return _byte_image(to_bytes(path, read_array(path)), channels)


def _byte_image(pixels: np.ndarray, channels: int) -> Tensor:
    image = Image.fromarray(pixels).convert("L" if channels == 1 else "RGB")
    return torch.from_numpy(np.array(image)).view(image.height, image.width, channels).permute(2, 0, 1).contiguous()


def read_levels(path: Path, channels: int) -> Tensor:
    """An image (C, H, W): uint8 of 8-bit files, float32 in [0, 1] with every level of 16-bit files (1.0 is 65535).

    Args:
        path: The file.
        channels: Channels C.

    Raises:
        BrokenFileError: If the file is not a readable image of 8 or 16 bits.
    """
    pixels = read_array(path)
    if pixels.dtype != np.uint16:
        return _byte_image(to_bytes(path, pixels), channels)
    levels = torch.from_numpy(pixels.astype(np.float32) / np.iinfo(np.uint16).max)
    image = levels[None] if levels.dim() == 2 else levels.permute(2, 0, 1)
    if channels == 1 and len(image) == 3:
        image = (image * torch.tensor(LUMINANCE)[:, None, None]).sum(0, keepdim=True)
    return image.expand(channels, -1, -1).contiguous()


def num_of(fraction: float, total: int) -> int:
    """A share of `total` things, at least one unless the share is 0."""
    return max(1, round(fraction * total)) if fraction else 0


def split_groups(
    groups: Iterable[str], val_fraction: float, test_fraction: float, seed: int | str, what: str = "images or scenes"
) -> dict[str, Split]:
    """Which split each group of images belongs to: a function of names and seed, at least one group in each split.

    Args:
        groups: Names of the groups.
        val_fraction: Share of the groups that validates.
        test_fraction: Share that tests; 0 for no test split.
        seed: Seed of the run.
        what: What a group is, for the message.

    Raises:
        UserError: If there are fewer than three groups, or the fractions leave nothing to train on.
    """
    order = sorted(groups)
    random.Random(seed).shuffle(order)
    num_val, num_test = (num_of(fraction, len(order)) for fraction in (val_fraction, test_fraction))
    if num_val + num_test >= len(order):
        raise UserError(
            f"data.val_fraction={val_fraction}, data.test_fraction={test_fraction}: {len(order)} {what} "
            "cannot be split so; expected more of them, or smaller fractions"
        )
    parts: dict[str, Split] = dict.fromkeys(order, "train")
    parts |= dict.fromkeys(order[:num_val], "val")
    return parts | dict.fromkeys(order[num_val : num_val + num_test], "test")
