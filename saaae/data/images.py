"""Images in memory: one indexed read a batch."""

import hashlib
from typing import NamedTuple, Protocol

import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor
from torch.utils.data import Dataset

from saaae.errors import UserError

UNKNOWN_LABEL, UNKNOWN_MASK = -1, 255


class Masks(NamedTuple):
    """Pixel masks of images; most share the empty one.

    Attributes:
        masks: (K, 1, H, W), uint8: 1 where there is a defect, UNKNOWN_MASK where it is not known.
        row: Which mask each image has (N,), int64.
    """

    masks: Tensor
    row: Tensor


class RawBatch(NamedTuple):
    """What crosses from memory to the device: small, and converted there. Fields as in `Images`, one row an image."""

    pixels: Tensor
    indices: Tensor
    label: Tensor | None = None
    reference: Tensor | None = None
    mask: Tensor | None = None
    fabric: Tensor | None = None
    defect: Tensor | None = None
    window: Tensor | None = None


class ImageSplit(Protocol):
    """One split of a data set."""

    @property
    def size(self) -> int: ...

    def take(self, indices: Tensor) -> RawBatch:
        """The images at positions (B,) of the split."""
        ...


class Images(NamedTuple):
    """One split in memory, or mapped from disk.

    Attributes:
        pixels: (N, C, H, W), uint8 with 255 for 1.0, or float32 in [0, 1].
        label: Classes (N,), int64, or None; UNKNOWN_LABEL where it is not known.
        reference: Cleaner images of the same scenes (N, C, H, W), or None.
        masks: Pixel masks, or None.
        fabric: Code of each image's fabric (N,), int64, or None.
        defect: Code of the defect on the whole strip that an image is from (N,), int64, 0 for none; or None.
        window: A homogeneous rectangle of each image, as in `Batch`, or None.
        rows: Which of the N images are in the split (M,), int64; None for all. Splits share what they are rows of.
    """

    pixels: Tensor
    label: Tensor | None = None
    reference: Tensor | None = None
    masks: Masks | None = None
    fabric: Tensor | None = None
    defect: Tensor | None = None
    window: Tensor | None = None
    rows: Tensor | None = None

    @property
    def size(self) -> int:
        return len(self.pixels if self.rows is None else self.rows)

    def take(self, indices: Tensor) -> RawBatch:
        """The images at positions (B,) of the split."""
        rows = indices if self.rows is None else self.rows[indices]
        label, reference, fabric, defect, window = (
            None if field is None else field.index_select(0, rows)
            for field in (self.label, self.reference, self.fabric, self.defect, self.window)
        )
        mask = None if self.masks is None else self.masks.masks.index_select(0, self.masks.row[rows])
        # Copies whole images: several times faster than pixels[rows].
        return RawBatch(self.pixels.index_select(0, rows), indices, label, reference, mask, fabric, defect, window)

    def on(self, device: torch.device) -> "Images":
        """The split's own images on a device."""
        everything, masks = torch.arange(self.size), self.masks
        own = self._replace(masks=None).take(everything)
        if masks is not None:
            used, row = masks.row[everything if self.rows is None else self.rows].unique(return_inverse=True)
            masks = Masks(masks.masks[used], row)
        images = Images(own.pixels, own.label, own.reference, masks, own.fabric, own.defect, own.window)
        return move_data_to_device(images, device)


class IndexedImages(Dataset[RawBatch | UserError]):
    """Serves the images of a whole index tensor (B,) at once; a UserError as itself, to keep it one line."""

    def __init__(self, images: ImageSplit) -> None:
        self.images = images

    def __len__(self) -> int:
        return self.images.size

    def __getitem__(self, indices: Tensor) -> RawBatch | UserError:
        try:
            return self.images.take(indices)
        except UserError as error:  # raised in a worker it would come with the worker's stack trace
            return error


class Positions(Dataset[Tensor]):
    """Serves index tensors as they are: the images wait on the device."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, indices: Tensor) -> Tensor:
        return indices


def to_unit_range(pixels: Tensor) -> Tensor:
    """Float32 images in [0, 1]: uint8 divided by 255, floats as they are."""
    return pixels.float().div_(255.0) if pixels.dtype == torch.uint8 else pixels.float()


def tensor_digest(tensor: Tensor) -> str:
    """Digest of a tensor's shape and content."""
    digest = hashlib.blake2b(f"{tuple(tensor.shape)} {tensor.dtype}".encode(), digest_size=12)
    digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()
