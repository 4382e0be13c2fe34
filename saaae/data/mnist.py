"""MNIST: 28x28 handwritten digits (LeCun, Cortes and Burges), from the original archives as they are."""

import gzip
import zlib
from pathlib import Path
from typing import Literal, Unpack

import numpy as np
import torch
from torch import Tensor

from saaae.data.datamodule import SPLITS, ImageDataModule, Manifest, Serving
from saaae.data.images import Images, RawBatch, tensor_digest
from saaae.errors import UserError
from saaae.ranges import Folder, PositiveInt
from saaae.rng import RandomSource
from saaae.types import Batch, Split

FILES: dict[Split, tuple[str, str]] = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def read_idx(path: Path) -> Tensor:
    """Array of an IDX file of bytes, plain or gzipped.

    Raises:
        UserError: If the file is damaged or of another format.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if len(data) < 4 or data[:3] != b"\0\0\x08":
            raise ValueError("no IDX header of unsigned bytes")
        start = 4 + 4 * data[3]
        shape = np.frombuffer(data, ">i4", count=data[3], offset=4)
        return torch.from_numpy(np.frombuffer(data, np.uint8, offset=start).reshape(shape).copy())
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"{path}: not a readable IDX file ({error}); delete it or replace it by the original") from None


def bits(pixels: Tensor, seed: int) -> Tensor:
    """One binary draw of each gray pixel (uint8), 0 or 255: a pixel is white with its brightness as the probability."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randint(0, 255, pixels.shape, dtype=torch.uint8, generator=generator) < pixels).to(torch.uint8) * 255


def find_file(root: Path, name: str) -> Path | None:
    """The file `name` below `root` in torchvision's layout or flat, plain or gzipped."""
    candidates = (root / folder / (name + end) for folder in ("MNIST/raw", "raw", ".") for end in ("", ".gz"))
    return next((path for path in candidates if path.is_file()), None)


def download(root: Path) -> None:
    """Fetches the archives from torchvision's mirrors into `root`.

    Raises:
        UserError: If no mirror answers or `root` cannot be written.
    """
    from torchvision.datasets import MNIST

    try:
        MNIST(str(root), download=True)
    except (RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(":") if str(error) else type(error).__name__
        raise UserError(
            f"data.root={root}: MNIST is not there and could not be downloaded ({reason}); put the four "
            f"*-ubyte.gz files into {root / 'MNIST' / 'raw'}, or point data.root or SAAAE_DATA_DIR at a copy, "
            "or train on data=speckle"
        ) from None


class MNISTData(ImageDataModule):
    """MNIST digits, 1.0 is full ink; validation images are the last ones of the training archive.

    Args:
        root: Folder of the archives in torchvision's layout, plain or gzipped; may be read-only. An empty one is
            downloaded into.
        num_val: How many of the 60,000 training images validate.
        num_classes: 10.
        image_size: 28.
        channels: 1.
        binarize: How gray pixels become binary ones, each drawn with its brightness as the probability of white.
            `static`: drawn once, the same for every seed (Salakhutdinov and Murray 2008). `dynamic`: drawn anew for
            every batch in training, a function of (seed, image index) in evaluation. None: the images stay gray.
        **serving: How the images are served.
    """

    def __init__(
        self,
        *,
        root: Folder,
        num_val: PositiveInt,
        num_classes: Literal[10],
        image_size: Literal[28],
        channels: Literal[1],
        binarize: Literal["static", "dynamic"] | None,
        **serving: Unpack[Serving],
    ) -> None:
        super().__init__(image_size=image_size, channels=channels, **serving)
        self.binarize = binarize
        self.root, self.num_val, self.num_classes = Path(root), num_val, num_classes
        self._digests: dict[str, str] = {}

    def prepare_data(self) -> None:
        """Downloads what is missing, on one process only."""
        if not all(find_file(self.root, name) for names in FILES.values() for name in names):
            download(self.root)

    def load(self) -> dict[Split, Images]:
        train, test = (self._read(part) for part in FILES)
        if self.num_val >= len(train.pixels):
            raise UserError(f"data.num_val={self.num_val}: the training archive has {len(train.pixels)} images only")
        cut, rows = len(train.pixels) - self.num_val, torch.arange(len(train.pixels))
        return {"train": train._replace(rows=rows[:cut]), "val": train._replace(rows=rows[cut:]), "test": test}

    def describe(self) -> Manifest:
        train, val, test = (self.splits[split] for split in SPLITS)
        cut, end = train.size, train.size + val.size
        return {
            "splits": {
                "train": {f"{FILES['train'][0]}[0:{cut}]": cut},
                "val": {f"{FILES['train'][0]}[{cut}:{end}]": val.size},
                "test": {FILES["test"][0]: test.size},
            },
            "sources": self._digests,
            "settings": {"binarize": self.binarize} if self.binarize else {},
            "left_out": {},
            "skipped": {},
            "warnings": [],
        }

    def present(self, raw: RawBatch, rng: RandomSource) -> Batch:
        """The images, with `dynamic` of newly drawn pixels."""
        batch = super().present(raw, rng)
        if self.binarize != "dynamic":
            return batch
        drawn = (rng.uniform(batch.input) <= batch.input).float()
        return batch._replace(input=drawn, target=drawn)

    def _read(self, part: Split) -> Images:
        pixels, labels = (self._read_file(name) for name in FILES[part])
        if pixels.shape[1:] != (28, 28) or labels.shape != pixels.shape[:1]:
            raise UserError(
                f"data.root={self.root}: {FILES[part][0]} holds {tuple(pixels.shape)} pixels, {FILES[part][1]} "
                f"{tuple(labels.shape)} labels; expected (N, 28, 28) and (N,)"
            )
        self._digests |= {FILES[part][0]: tensor_digest(pixels), FILES[part][1]: tensor_digest(labels)}
        if self.binarize == "static":
            pixels = bits(pixels, [*FILES].index(part))
            self._digests[f"{FILES[part][0]} as bits"] = tensor_digest(pixels)
        return Images(pixels[:, None], labels.long())

    def _read_file(self, name: str) -> Tensor:
        path = find_file(self.root, name)
        if path is None:
            raise UserError(f"data.root={self.root}: {name}.gz is missing")
        return read_idx(path)
