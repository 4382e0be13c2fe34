"""Image files of users, read by rows: TIFF and NPY without loading the whole file, the other kinds whole."""

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile

from saaae.data.files import BrokenFileError, read_array
from saaae.data.listing import EXTENSIONS
from saaae.errors import UserError

TIFF = (".tif", ".tiff")
GEOREFERENCE = (33550, 33922, 34264, 34735, 34736, 34737)
"""Tags of GeoTIFF: scale, tie points, transformation, keys."""
GDAL_METADATA, GDAL_NODATA = 42112, 42113

ReadRows = Callable[[int, int], np.ndarray]


class Tags(NamedTuple):
    """What is copied from a TIFF file.

    Attributes:
        extra: Tags as tifffile takes them: code, type, count, value, once.
        options: Resolution and description, as arguments of `tifffile.imwrite`.
    """

    extra: tuple[tuple[int, int, int, Any, bool], ...] = ()
    options: dict[str, Any] = {}  # noqa: RUF012


class ImageFile:
    """An image file, as rows (n, W, C) of its stored values.

    Args:
        path: The file.
        content: Its bytes, where they are in memory: then the path only tells its kind, and nothing is opened.

    Attributes:
        height: Rows H.
        width: Columns W.
        channels: Channels C, 1 or 3.
        is_plane: Whether it is stored without an axis of channels.
        dtype: Type of the stored values, in the byte order of this machine.
        by_rows: Whether rows are read from the file on demand.
        tags: What a TIFF file says about itself.
        nodata: The value that stands for a missing pixel, where the file names one.

    Raises:
        UserError: If the file is missing, or of no kind that is read.
        BrokenFileError: If it is not one readable image.
    """

    def __init__(self, path: Path, content: bytes | None = None) -> None:
        self.path, self.tags = path, Tags()
        self.nodata: float | None = None
        if path.suffix.lower() not in EXTENSIONS:
            raise UserError(f"{path}: not an image file; expected one ending in {', '.join(EXTENSIONS)}")
        if content is None and not path.is_file():
            raise UserError(f"{path}: no such file")
        windowed = None
        with contextlib.suppress(Exception):  # whatever is wrong with it, read_array says
            if content is None:
                windowed = self._npy() if path.suffix.lower() == ".npy" else self._tiff() if self.is_tiff else None
            elif self.is_tiff:
                with tifffile.TiffFile(io.BytesIO(content)) as file:
                    self.nodata = _nodata(_whole_pages(file)[0])
        self.by_rows = windowed is not None
        if windowed is None:
            pixels = read_array(path, content)
            shape, self.dtype = pixels.shape, pixels.dtype
            windowed = shape, lambda start, stop: pixels[start:stop]
        shape, self._read = windowed
        self.is_plane = len(shape) == 2
        self.height, self.width = shape[:2]
        self.channels = shape[2] if len(shape) == 3 else 1

    @property
    def is_tiff(self) -> bool:
        return self.path.suffix.lower() in TIFF

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop) as (n, W, C).

        Raises:
            BrokenFileError: If the file ends before them, or cannot be decoded.
        """
        try:
            rows = self._read(start, stop).reshape(stop - start, self.width, self.channels)
        except Exception as error:  # decoders of foreign bytes raise anything
            reason = "it ends too early" if isinstance(error, EOFError) else error
            raise BrokenFileError(f"{self.path}: not a readable image ({reason}); replace or remove it") from None
        return rows.astype(self.dtype, copy=False)

    def _npy(self) -> tuple[tuple[int, ...], ReadRows] | None:
        with self.path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read_header = (
                np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            )
            shape, by_columns, dtype = read_header(file)
            offset = file.tell()
        is_image = len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3) and min(shape[:2]) > 3)
        if by_columns or not is_image or 0 in shape or dtype.kind not in "uif":
            return None
        self.dtype = dtype.newbyteorder("=")
        return shape, _contiguous(self.path, offset, shape, dtype)

    def _tiff(self) -> tuple[tuple[int, ...], ReadRows] | None:
        with tifffile.TiffFile(self.path) as file:
            pages = _whole_pages(file)
            page = pages[0]
            self.tags, self.nodata = _tags(page), _nodata(page)
            shape = (page.imagelength, page.imagewidth, page.samplesperpixel)[: 2 if page.samplesperpixel == 1 else 3]
            is_image = len(pages) == 1 and page.imagedepth == 1 and page.samplesperpixel in (1, 3)
            is_plain = page.photometric in (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB)
            is_plain = is_plain and not page.extrasamples and (page.samplesperpixel == 1 or page.planarconfig == 1)
            dtype = np.dtype(page.dtype or "V")
            if not (is_image and is_plain and dtype.kind in "uif" and 8 * dtype.itemsize == page.bitspersample):
                return None
            self.dtype = dtype
            if page.is_contiguous and page.compression == 1 and page.predictor == 1 and page.fillorder == 1:
                stored = dtype.newbyteorder(file.byteorder)
                return shape, _contiguous(self.path, page.dataoffsets[0], shape, stored)
            read = _Segments(self.path, page)
            read(0, 1)
            return shape, read


def _whole_pages(file: tifffile.TiffFile) -> list[Any]:
    """The pages of a TIFF file that are no smaller copies of others."""
    return [page for page in (page.aspage() for page in file.pages) if not page.is_reduced]


def _contiguous(path: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype) -> ReadRows:
    """Reads rows of an array that lies in a file as it does in memory."""
    row = int(np.prod(shape[1:]))

    def read(start: int, stop: int) -> np.ndarray:
        with path.open("rb") as file:
            file.seek(offset + start * row * dtype.itemsize)
            values = np.fromfile(file, dtype, (stop - start) * row)
        if len(values) < (stop - start) * row:
            raise EOFError
        return values

    return read


class _Segments:
    """Reads rows of a TIFF page by decoding the strips or tiles in which they lie; keeps the last row of them."""

    def __init__(self, path: Path, page: Any) -> None:
        self.path, self.page = path, page
        self.offsets, self.counts, self.decode = page.dataoffsets, page.databytecounts, page.decode
        self.tables = page.jpegtables
        self.size, self.across = page.chunks[0], -(-page.imagewidth // page.chunks[1])
        self.last = (-1, np.empty(0))

    def __call__(self, start: int, stop: int) -> np.ndarray:
        parts = []
        for number in range(start // self.size, (stop - 1) // self.size + 1):
            first = number * self.size
            parts.append(self._row(number)[max(start - first, 0) : stop - first])
        return np.concatenate(parts)

    def _row(self, number: int) -> np.ndarray:
        if self.last[0] != number:
            with self.path.open("rb") as file:
                decoded = [self._segment(file, number * self.across + column) for column in range(self.across)]
            self.last = (number, np.concatenate(decoded, axis=1)[:, : self.page.imagewidth])  # tiles may exceed it
        return self.last[1]

    def _segment(self, file: io.BufferedReader, index: int) -> np.ndarray:
        file.seek(self.offsets[index])
        data = file.read(self.counts[index])
        if len(data) < self.counts[index]:
            raise EOFError
        values, _, (_, height, width, samples) = self.decode(data or None, index, jpegtables=self.tables)
        if values is None:  # an empty segment
            return np.full((height, width, samples), self.page.nodata, self.page.dtype)
        return values[0, :height, :width]


def _tags(page: Any) -> Tags:
    extra: list[tuple[int, int, int, Any, bool]] = []
    options: dict[str, Any] = {}
    for code in (*GEOREFERENCE, GDAL_METADATA, GDAL_NODATA):
        if tag := page.tags.get(code):
            value = tag.value.encode() if isinstance(tag.value, str) else tag.value
            extra.append((code, int(tag.dtype), 0 if isinstance(value, bytes) else tag.count, value, True))
    if "XResolution" in page.tags and "YResolution" in page.tags:
        options["resolution"] = tuple(page.tags[name].value for name in ("XResolution", "YResolution"))
        if unit := page.tags.get("ResolutionUnit"):
            options["resolutionunit"] = int(unit.value)
    if page.description:
        options["description"] = page.description.encode()
    return Tags(tuple(extra), options)


def _nodata(page: Any) -> float | None:
    tag = page.tags.get(GDAL_NODATA)
    try:
        return None if tag is None else float(str(tag.value).strip("\0 "))
    except ValueError:
        return None
