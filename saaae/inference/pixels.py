"""Between the values that a file stores and those that a model takes."""

from typing import NamedTuple, Protocol

import numpy as np

from saaae.data.files import LUMINANCE, BrokenFileError
from saaae.data.sar import Scale, check_gray, from_amplitude, to_amplitude
from saaae.errors import UserError
from saaae.inference.image_files import ImageFile

PERCENTILE = 99.5
"""Percent of an image's values that are at most its full scale, where none is given."""
SAMPLE = 2**22
"""Pixels from which a percentile is taken."""
BAND = 64
"""Rows that are converted together."""
SMALLEST = 8
"""Least rows and columns of an image."""


class Pixels(Protocol):
    """The scale of one image."""

    def to_model(self, stored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows of an image as a model takes them.

        Args:
            stored: Rows (n, W, C) as stored.

        Returns:
            Values (c, n, W), float32, 0 where missing, and which are missing (n, W).
        """
        ...

    def to_stored(self, x_hat: np.ndarray, stored: np.ndarray, missing: np.ndarray) -> np.ndarray:
        """Restored rows (c, n, W) on the scale of the stored ones (n, W, C); missing pixels stay as they are."""
        ...


def missing_pixels(image: ImageFile, stored: np.ndarray) -> np.ndarray:
    """Pixels (n, W) of rows (n, W, C) without a value: NaN, or what the file calls no data."""
    missing = np.zeros(stored.shape[:2], bool)
    if stored.dtype.kind == "f":
        missing |= np.isnan(stored).any(-1)
    if image.nodata is not None:
        missing |= (stored == np.asarray(image.nodata).astype(stored.dtype)).any(-1)
    return missing


class RadarPixels(NamedTuple):
    """Amplitudes, intensities or decibels."""

    image: ImageFile
    scale: Scale
    full_scale: float
    clip: bool

    def to_model(self, stored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        check_gray(self.image.path, stored)
        amplitude = to_amplitude(stored[..., 0], self.scale, self.full_scale, self.clip)
        missing = missing_pixels(self.image, stored) | np.isnan(amplitude)
        amplitude[missing] = 0.0
        return amplitude[None], missing

    def to_stored(self, x_hat: np.ndarray, stored: np.ndarray, missing: np.ndarray) -> np.ndarray:
        values = from_amplitude(x_hat[0], self.scale, self.full_scale)
        return _as_stored(values[..., None], stored, missing)


class PhotoPixels(NamedTuple):
    """Gray levels or colours: integers of 8 or 16 bits, or floats in [0, 1]."""

    image: ImageFile
    channels: int

    def to_model(self, stored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        missing = missing_pixels(self.image, stored)
        if stored.dtype.kind == "f":
            valid = stored[~missing]
            if valid.size and not 0 <= valid.min() <= valid.max() <= 1:
                raise BrokenFileError(
                    f"{self.image.path}: values from {valid.min():.3g} to {valid.max():.3g}; expected floats in "
                    "[0, 1], or integers of 8 or 16 bits"
                )
        x = np.moveaxis(stored.astype(np.float32) / self._largest, -1, 0)
        if self.channels == 1 and len(x) == 3:
            x = (x * np.array(LUMINANCE, np.float32)[:, None, None]).sum(0, keepdims=True)
        x = np.where(missing, np.float32(0), x)
        return np.broadcast_to(x, (self.channels, *x.shape[1:])), missing

    def to_stored(self, x_hat: np.ndarray, stored: np.ndarray, missing: np.ndarray) -> np.ndarray:
        values = np.moveaxis(x_hat, 0, -1).astype(np.float64) * self._largest
        if self.channels == 3 and stored.shape[-1] == 1:
            values = values.mean(-1, keepdims=True)
        return _as_stored(values, stored, missing)

    @property
    def _largest(self) -> float:
        return 1.0 if self.image.dtype.kind == "f" else float(np.iinfo(self.image.dtype).max)


def _as_stored(values: np.ndarray, stored: np.ndarray, missing: np.ndarray) -> np.ndarray:
    if stored.dtype.kind != "f":
        limits = np.iinfo(stored.dtype)
        values = np.rint(values).clip(limits.min, limits.max)
    result = np.broadcast_to(values, stored.shape).astype(stored.dtype)
    result[missing] = stored[missing]
    return result


def sample(image: ImageFile) -> np.ndarray:
    """Values of an image that are not missing: of evenly spaced rows, and of all where those hold none.

    Raises:
        BrokenFileError: If the image is too small, or has no value.
    """
    if min(image.height, image.width) < SMALLEST:
        raise BrokenFileError(
            f"{image.path}: {image.width} x {image.height} pixels; expected at least {SMALLEST} x {SMALLEST}"
        )
    step = max(1, image.height * image.width // SAMPLE)
    for every in (step, 1):
        found = []
        for row in range(0, image.height, every if every > 1 else BAND):
            stored = image.rows(row, row + 1 if every > 1 else min(row + BAND, image.height))
            values = stored[~missing_pixels(image, stored)][:, 0]
            found.append(values[np.isfinite(values)])
            if every < step and len(found[-1]):
                return found[-1]
        values = np.concatenate(found)
        if len(values):
            return values
    raise BrokenFileError(f"{image.path}: no pixel with a value, all are NaN or no data; expected an image")


def radar_pixels(image: ImageFile, scale: Scale, full_scale: float | None, clip: bool) -> RadarPixels:
    """The scale of a radar image.

    Args:
        image: The image.
        scale: What its values are.
        full_scale: The stored value that becomes 1.0; None finds one, the PERCENTILE of the image.
        clip: Whether the model takes amplitudes up to 1.0 only.

    Raises:
        BrokenFileError: If the image has no values, or zeros only.
        UserError: If the scale cannot be meant.
    """
    values = sample(image)
    if scale != "decibel" and (values < 0).mean() > 0.5:
        raise UserError(f"scale={scale}: most pixels of {image.path} are negative; did you mean scale=decibel?")
    if scale != "decibel" and not values.any():
        raise BrokenFileError(f"{image.path}: all pixels are 0; expected an image")
    if full_scale is None:
        full_scale = float(np.percentile(values.astype(np.float64), PERCENTILE))
        if scale != "decibel" and full_scale <= 0:
            full_scale = float(values.max())
        if scale != "decibel" and full_scale <= 0:
            raise BrokenFileError(f"{image.path}: no pixel above 0; expected an image")
    return RadarPixels(image, scale, full_scale, clip)


def photo_pixels(image: ImageFile, channels: int) -> PhotoPixels:
    """The scale of a photo or of fabric.

    Raises:
        BrokenFileError: If its values are of a type whose scale is not known, or it has none.
    """
    if image.dtype not in (np.uint8, np.uint16) and image.dtype.kind != "f":
        raise BrokenFileError(
            f"{image.path}: {image.dtype} pixels; expected 8 or 16 unsigned bits, or floats in [0, 1]"
        )
    sample(image)
    return PhotoPixels(image, channels)
