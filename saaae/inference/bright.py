"""Bright places of radar images, which a despeckler would smooth away: where they are, and which pixels they need."""

import numpy as np
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import avg_pool2d

BRIGHT = (0.8, 1.2)
"""Local amplitudes from and above which a despeckler sees the image darker."""
DARKER = 8.0
"""How much darker: a despeckler smooths strong scatterers away whose amplitude is above 1."""
CONTEXT = 56
"""Pixels around a bright place that are seen with it: more changes its amplitude by less than 2e-4 of itself."""
NEAR = 10
"""Half the distance in pixels below which two bright places are one."""

Rectangle = tuple[slice, slice]


def brightness(x: Tensor) -> Tensor:
    """Weight (B, 1, H, W) of what lies above the amplitudes on which despecklers are trained, by its surroundings."""
    local = avg_pool2d(x**2, 5, 1, padding=2, count_include_pad=False).sqrt()
    return ((local - BRIGHT[0]) / (BRIGHT[1] - BRIGHT[0])).clamp(0.0, 1.0)


def bright_places(weight: np.ndarray, stride: int | None) -> list[tuple[Rectangle, Rectangle]]:
    """Rectangles that hold all pixels with weight, each with the larger one that a model must see for it.

    Two rectangles are joined where this leaves fewer pixels to see.

    Args:
        weight: (H, W).
        stride: Windows begin and end at multiples of it; None if the model takes whole images only.
    """
    if stride is None:
        everything = (slice(0, weight.shape[0]), slice(0, weight.shape[1]))
        return [(everything, everything)] if weight.any() else []
    labels, _ = ndimage.label(ndimage.binary_dilation(weight > 0, iterations=NEAR))
    places = [_trimmed(place, weight) for place in ndimage.find_objects(labels)]
    found: list[tuple[Rectangle, Rectangle]] = []
    for place in places:
        core, window = place, _window(place, weight.shape, stride)
        while True:
            for other in found:
                joined = _hull(core, other[0])
                around = _window(joined, weight.shape, stride)
                if _area(around) <= _area(window) + _area(other[1]):
                    found.remove(other)
                    core, window = joined, around
                    break
            else:
                break
        found.append((core, window))
    return found


def _trimmed(place: Rectangle, weight: np.ndarray) -> Rectangle:
    """The part of a rectangle that has weight."""
    inside = weight[place] > 0
    spans = []
    for part, line in zip(place, (inside.any(1), inside.any(0)), strict=True):
        kept = np.flatnonzero(line)
        spans.append(slice(part.start + int(kept[0]), part.start + int(kept[-1]) + 1))
    return spans[0], spans[1]


def _window(place: Rectangle, shape: tuple[int, ...], stride: int) -> Rectangle:
    """A rectangle with its context."""
    rows, columns = (
        slice(
            max(part.start - CONTEXT, 0) // stride * stride,
            min(-(-(part.stop + CONTEXT) // stride) * stride, length),
        )
        for part, length in zip(place, shape, strict=True)
    )
    return rows, columns


def _hull(first: Rectangle, second: Rectangle) -> Rectangle:
    rows, columns = (slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(first, second, strict=True))
    return rows, columns


def _area(place: Rectangle) -> int:
    return (place[0].stop - place[0].start) * (place[1].stop - place[1].start)
