"""Images as users have them in memory, and as models take them."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from saaae.errors import UserError

ImageLike = np.ndarray | Tensor

LARGEST = {torch.uint8: 255.0, torch.uint16: 65535.0}
"""Value that becomes 1.0, by type."""


def to_images(images: ImageLike, channels: int, device: torch.device) -> Tensor:
    """Images as a model takes them: float32 (B, C, H, W) in [0, 1].

    Args:
        images: (H, W), (C, H, W) or (B, C, H, W): uint8, uint16 or floats in [0, 1].
        channels: Channels C of the model.
        device: Where they are needed.

    Raises:
        UserError: Naming what was expected.
    """
    x = torch.as_tensor(images) if isinstance(images, np.ndarray) else images
    if not isinstance(x, Tensor):
        raise UserError(f"images: a {type(images).__name__}; expected a numpy array or a tensor")
    if x.dim() not in (2, 3, 4) or not x.numel():
        raise UserError(f"images: an array of shape {tuple(x.shape)}; expected (H, W), (C, H, W) or (B, C, H, W)")
    x = x[(None,) * (4 - x.dim())]
    if x.shape[1] != channels:
        last = "; move the channels before height and width" if x.shape[-1] == channels else ""
        raise UserError(f"images: {x.shape[1]} channels; expected {channels}, as (B, C, H, W){last}")
    if x.dtype in LARGEST:
        return x.to(device, torch.float32) / LARGEST[x.dtype]
    if not x.is_floating_point():
        raise UserError(f"images: {str(x.dtype).removeprefix('torch.')}; expected uint8, uint16 or floats in [0, 1]")
    x = x.to(device, torch.float32)
    if not x.isfinite().all():
        raise UserError("images: NaN or infinite values; expected finite numbers in [0, 1]")
    low, high = x.aminmax()
    if low < 0 or high > 1:
        raise UserError(f"images: values from {low:.3g} to {high:.3g}; expected floats in [0, 1], or uint8")
    return x


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Images (B, C, H, W), continued by their border pixels to the right and below until both sides are multiples."""
    height, width = x.shape[-2:]
    extra = (0, -width % multiple, 0, -height % multiple)
    return pad(x, extra, mode="replicate") if any(extra) else x
