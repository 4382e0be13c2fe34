"""Image files that are written row by row, and appear when they are whole."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import tifffile
from PIL import Image

from saaae.atomic import replacing
from saaae.inference.image_files import GDAL_NODATA, TIFF, Tags

BIG = 4 * 10**9
"""Bytes above which a TIFF file needs 64-bit offsets."""
PILLOW = {".bmp": "BMP", ".png": "PNG", ".webp": "WEBP"}


class Rows(Protocol):
    """An image that is being written."""

    def write(self, rows: np.ndarray) -> None:
        """Adds the rows that follow."""
        ...


class _Streamed:
    """Rows that go straight to the file."""

    def __init__(self, file: BinaryIO, dtype: np.dtype) -> None:
        self.file, self.dtype = file, dtype

    def write(self, rows: np.ndarray) -> None:
        self.file.write(np.ascontiguousarray(rows, self.dtype).data)


class _Collected:
    """Rows that wait in memory until the image is whole."""

    def __init__(self) -> None:
        self.parts: list[np.ndarray] = []

    def write(self, rows: np.ndarray) -> None:
        self.parts.append(rows)


def output_ending(path: Path) -> str:
    """Ending of what is written for an image: its own, but PNG for JPEG, which would add losses."""
    return ".png" if path.suffix.lower() in (".jpg", ".jpeg") else path.suffix


@contextmanager
def writing(path: Path, shape: Sequence[int], dtype: np.dtype, tags: Tags | None = None) -> Iterator[Rows]:
    """An image file to which rows are added; it appears at the end, and not at all after an exception.

    TIFF (uncompressed) and NPY are written as rows come, the other kinds in one go.

    Args:
        path: The file; its ending says the kind.
        shape: (H, W) or (H, W, 3), of an NPY file any.
        dtype: Type of its values.
        tags: For TIFF.

    Raises:
        OSError: If the folder cannot be written.
    """
    dtype, ending = np.dtype(dtype), path.suffix.lower()
    with replacing(path) as file:
        if ending == ".npy":
            header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": tuple(shape)}
            np.lib.format.write_array_header_1_0(file, header)
            yield _Streamed(file, dtype)
        elif ending in TIFF:
            _write_header(file, shape, dtype, tags or Tags())
            yield _Streamed(file, dtype)
        else:
            collected = _Collected()
            yield collected
            pixels = np.concatenate(collected.parts).reshape(tuple(shape))
            options = {"lossless": True} if ending == ".webp" else {}
            Image.fromarray(pixels).save(file, PILLOW[ending], **options)


def without_nodata(tags: Tags) -> Tags:
    """The tags of an image whose missing pixels are NaN."""
    return tags._replace(extra=tuple(tag for tag in tags.extra if tag[0] != GDAL_NODATA))


class _Unnamed:
    """A file without its name, which is a number for a temporary file; tifffile expects a path."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file

    def __getattr__(self, name: str) -> Any:
        if name == "name":
            raise AttributeError(name)
        return getattr(self.file, name)


def _write_header(file: BinaryIO, shape: Sequence[int], dtype: np.dtype, tags: Tags) -> None:
    """Writes the head of an uncompressed TIFF file, and stays where its pixels begin."""
    size = int(np.prod(shape)) * dtype.itemsize
    found = tifffile.imwrite(
        _Unnamed(file),
        shape=tuple(shape),
        dtype=dtype,
        photometric="rgb" if len(shape) == 3 else "minisblack",
        bigtiff=size > BIG,
        metadata=None,
        software=False,
        extratags=list(tags.extra),
        returnoffset=True,
        **tags.options,
    )
    assert found is not None
    file.seek(found[0])
