"""Value ranges for constructor annotations.

A constructor's signature is the schema of its configuration node: `saaae.runs.signature` reads it from the source
without importing torch, so this module must stay free of heavy imports too.
"""

import os
from typing import Annotated

from annotated_types import Ge, Gt, Le, Len, Lt, MultipleOf, Predicate

PositiveInt = Annotated[int, Ge(1)]
NonNegativeInt = Annotated[int, Ge(0)]
PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
Fraction = Annotated[float, Ge(0), Le(1)]
"""A share, both ends included."""
PositiveFraction = Annotated[float, Gt(0), Le(1)]
OpenFraction = Annotated[float, Gt(0), Lt(1)]
ImageSize = Annotated[int, Ge(8), MultipleOf(4)]
"""Side of a square image in pixels: the networks halve it at least twice."""
Widths = Annotated[list[PositiveInt], Len(1)]
"""Channels of each stage, at least one stage."""
ExistingFolder = Annotated[str, Predicate(os.path.isdir)]
Span = Annotated[int | float, Ge(0)]
"""A stretch of training: an integer counts optimizer steps, a float is a fraction of the run."""
