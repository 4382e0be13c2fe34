"""The images of the page: test images of the run or the user's files, and images dropped into the page."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from saaae.data.datamodule import spread
from saaae.data.files import BrokenFileError, image_sizes
from saaae.data.folder import middle_of
from saaae.data.listing import EXTENSIONS
from saaae.data.tiles import pad_to_tile
from saaae.errors import UserError
from saaae.inference.image_files import ImageFile
from saaae.inference.model import TrainedModel
from saaae.inference.predict import Predictor
from saaae.inference.tiled_model import Options, filled
from saaae.rng import IndexedRandom
from saaae.types import Batch

KEPT = 16
"""Dropped images that are kept in memory; the oldest is forgotten first."""
LARGEST = 2**26
"""Pixels of the largest image that is taken."""
VALUES = 2**25
"""Pixel values of all images together, at most."""
CHUNK = 32
"""Images that are read or encoded together."""
THUMBNAIL = 32
"""Largest side of a small image in pixels."""


class Gallery:
    """Images that a page shows.

    Args:
        model: The model they are for.
        count: Number of images, at most.
        files: Image files in place of the test images of the run.

    Raises:
        UserError: If the data of the run or a file cannot be read.

    Attributes:
        count: Number of images.
        names: Names of the files; None for test images.
        class_names: Names of the classes, where they have names.
    """

    def __init__(self, model: TrainedModel, count: int, files: Sequence[Path] | None = None) -> None:
        self.model, self.names, self.class_names = model, None, model.class_names
        self._own: OrderedDict[str, Tensor] = OrderedDict()
        self._predictor = Predictor(model, Options(label=0 if model.network.num_classes else None))
        count = max(1, min(count, VALUES // (model.channels * model.image_size**2)))
        self._get: Callable[[Tensor], Batch]
        if files is None:
            data = model.data()
            chosen = spread(data, "test", count)
            self.class_names = None if data.class_names is None else list(data.class_names)
            self.count = len(chosen)
            self._get = lambda places: data.batch("test", chosen[places], model.device, without_defects=True)
        else:
            files = files[:count]
            pixels = torch.stack([self._fitted(ImageFile(path)) for path in files])
            self.count, self.names = len(files), [path.name for path in files]
            self._get = lambda places: self._batch(pixels[places], places)

    def batch(self, places: Tensor) -> Batch:
        """The images at these places (B,), from 0 to `count`, on the model's device."""
        return self._get(places)

    def batches(self) -> Iterator[Batch]:
        """All images, in batches of CHUNK."""
        return map(self.batch, torch.arange(self.count).split(CHUNK))

    def image(self, name: str) -> Batch:
        """One image by its name, see `Recipe.image`.

        Raises:
            UserError: If there is none of that name.
        """
        kind, which = name.split("/", 1)
        if kind == "own":
            if which not in self._own:
                raise UserError("this image was dropped into the page earlier and is no longer kept; drop it again")
            self._own.move_to_end(which)
            return self._batch(self._own[which][None], torch.zeros(1, dtype=torch.int64))
        if not 0 <= int(which) < self.count:
            raise UserError(f"image {which}: expected 0 to {self.count - 1}")
        return self.batch(torch.tensor([int(which)]))

    def add(self, content: bytes, ending: str) -> str:
        """Takes an image from the bytes of a file; nothing is opened or written.

        Args:
            content: The bytes.
            ending: That of the file's name, which tells NPY and TIFF files apart.

        Returns:
            Its name for `image`.

        Raises:
            UserError: If it is no image, or too large.
        """
        if ending.lower() not in EXTENSIONS:
            raise UserError(f"{ending or 'no ending'}: not an image file; expected one of {', '.join(EXTENSIONS)}")
        _check_size(content, ending.lower())
        pixels = self._fitted(ImageFile(Path(f"the image{ending.lower()}"), content))
        digest = hashlib.sha256(content).hexdigest()[:16]
        self._own[digest] = pixels
        while len(self._own) > KEPT:
            self._own.popitem(last=False)
        return f"own/{digest}"

    def thumbnails(self) -> Tensor:
        """All images in small (N, C, h, w), in [0, 1]."""
        side = min(THUMBNAIL, self.model.image_size)
        return torch.cat([adaptive_avg_pool2d(batch.target, side).cpu() for batch in self.batches()])

    @cached_property
    def groups(self) -> dict[str, list[int]]:
        """Class and fabric of all images (N,), by `class` and `fabric`; without those that the images do not have."""
        parts = [(batch.label, batch.fabric) for batch in self.batches()]
        found = dict(zip(("class", "fabric"), zip(*parts, strict=True), strict=True))
        return {name: torch.cat(values).tolist() for name, values in found.items() if values[0] is not None}

    def _fitted(self, image: ImageFile) -> Tensor:
        """The middle of an image of any size as the model takes it (C, S, S), float32, read as `saaae predict` does.

        Photos are resized. Of radar images and fabric, whose texture has a scale, a square of S pixels is cut out.
        """
        size, is_photo = self.model.image_size, self.model.domain == "photo"
        pixels = self._predictor.pixels_of(image)
        side = min(image.height, image.width) if is_photo else size
        top, left = (max(0, length - side) // 2 for length in (image.height, image.width))
        stored = image.rows(top, min(top + side, image.height))[:, left : left + side]
        x = torch.from_numpy(np.array(filled(*pixels.to_model(stored))))
        return middle_of(x, size).clamp(0, 1) if is_photo else pad_to_tile(x, size)

    def _batch(self, pixels: Tensor, places: Tensor) -> Batch:
        x, places = pixels.to(self.model.device), places.to(self.model.device)
        return Batch(x, x, places, IndexedRandom(0, places))


def _check_size(content: bytes, ending: str) -> None:
    """Refuses images of more pixels than anyone would drop: a small file may unpack to more than the memory."""
    for width, height in [] if ending == ".npy" else image_sizes(content, ending):
        if width * height > LARGEST:
            raise BrokenFileError(f"{width} x {height} pixels; expected {LARGEST} at most")
