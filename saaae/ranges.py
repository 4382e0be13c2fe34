"""Value ranges for constructor annotations.

A constructor's signature is the schema of its configuration node: `saaae.config.signature` reads it from the source
without importing torch, so this module must stay free of heavy imports too.
"""

import math
import os
from typing import Annotated, Any, Literal, TypeVar, get_args

from annotated_types import Ge, Gt, Le, Len, Lt, MultipleOf, Predicate

T = TypeVar("T")
RUNTIME, LENGTH, FOLDER, TARGET = "runtime", "length", "folder", "target"
Runtime = Annotated[T, RUNTIME]
"""A setting that says where a run computes and what it displays, not what it computes."""
Length = Annotated[T, LENGTH]
"""A setting that ends a run: a longer one continues it."""
Folder = Annotated[str, FOLDER]
"""A path; it is made absolute, so that the run can be continued from another working directory."""
Target = Annotated[T, TARGET]
"""A setting of the data that decides what reconstructions are compared with, not what the files are."""

PositiveInt = Annotated[int, Ge(1)]
NonNegativeInt = Annotated[int, Ge(0)]
PositiveFloat = Annotated[float, Gt(0), Lt(math.inf)]
NonNegativeFloat = Annotated[float, Ge(0), Lt(math.inf)]
FiniteFloat = Annotated[float, Gt(-math.inf), Lt(math.inf)]
Fraction = Annotated[float, Ge(0), Le(1)]
PositiveFraction = Annotated[float, Gt(0), Le(1)]
OpenFraction = Annotated[float, Gt(0), Lt(1)]
ImageSize = Annotated[int, Ge(8), Le(4096), MultipleOf(4)]
"""Side of a square image in pixels: the networks halve it at least twice."""
Widths = Annotated[list[PositiveInt], Len(1)]
"""Channels of each stage, at least one stage."""
LOGVAR_MIN, LOGVAR_MAX = -12.0, 8.0
"""Bounds on the log variance of every Gaussian posterior."""
MAX_ANCHOR = 1.0 - math.exp((1.0 - LOGVAR_MAX) / 2.0)
"""Largest anchor that the log variance can undo, with one to spare: LOGVAR_MAX >= 1 - 2 ln(1 - a)."""
Anchor = Annotated[float, Gt(0), Le(MAX_ANCHOR)]
Interval = Annotated[list[PositiveFloat], Len(2, 2)]
"""Least and greatest value of what is drawn at random."""
Angles = Annotated[list[Annotated[float, Ge(0), Le(180)]], Len(2, 2)]
"""Least and greatest angle in degrees."""
Peak = Annotated[float, Gt(0), Le(500)]
"""Mean photon count of a white pixel."""
Percent = Annotated[int, Ge(1), Le(100)]
CorrelationCoefficient = Annotated[float, Ge(0), Lt(1)]
Correlation = CorrelationCoefficient | Annotated[list[CorrelationCoefficient], Len(1)]
"""Correlation of neighbouring pixels' intensities under speckle, or a list from which each image draws one."""
ExistingFolder = Annotated[Folder, Predicate(os.path.isdir)]
Span = NonNegativeInt | Fraction
"""A stretch of training: an integer counts optimizer steps, a float is a fraction of the run."""
NumLooks = Annotated[float, Ge(0.01), Le(10_000)]
Looks = NumLooks | Annotated[list[NumLooks], Len(1)]
"""Number of looks of speckle, or a list from which each image draws one."""


def has_mark(annotation: Any, mark: str) -> bool:
    """Whether an annotation, or a part of it, carries one of the marks above."""
    return mark in getattr(annotation, "__metadata__", ()) or any(has_mark(arg, mark) for arg in get_args(annotation))


def choices_of(value: float | list[float]) -> list[float]:
    """The values that an image may draw of a number or a list."""
    return value if isinstance(value, list) else [value]


Scale = PositiveFloat | Literal["learned", "optimal", "per_image"]
"""Scale of a density over pixels: given, one parameter, or the best of each batch or image."""
Activation = Literal["sigmoid", "tanh", "relu", "none", "log_intensity"]
"""Output activation of a decoder."""
