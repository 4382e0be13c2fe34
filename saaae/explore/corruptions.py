"""The corruptions of the page: each has one number, which the strength from 0 to 1 sets."""

from collections.abc import Callable
from typing import NamedTuple

from saaae.data.corruption import (
    JPEG,
    Corruption,
    GaussianBlur,
    GaussianNoise,
    Occlusion,
    PoissonNoise,
    SaltAndPepper,
    Speckle,
)
from saaae.errors import UserError, nearest


class Adjustable(NamedTuple):
    """A corruption with one number.

    Attributes:
        make: Makes it of the number.
        quantity: What the number is.
        weakest: The number at strength 0.
        strongest: The number at strength 1.
        geometric: Whether equal steps of strength are equal factors of the number, not equal differences.
    """

    make: Callable[[float], Corruption]
    quantity: str
    weakest: float
    strongest: float
    geometric: bool = False

    def number(self, strength: float) -> float:
        """The number at a strength from 0 to 1."""
        if self.geometric:
            return self.weakest * (self.strongest / self.weakest) ** strength
        return self.weakest + (self.strongest - self.weakest) * strength


ADJUSTABLE: dict[str, Adjustable] = {
    "gaussian": Adjustable(lambda std: GaussianNoise(std=std), "standard deviation", 0.0, 0.5),
    "gaussian_blur": Adjustable(lambda sigma: GaussianBlur(sigma=sigma), "sigma in pixels", 0.3, 4.0),
    "poisson": Adjustable(lambda peak: PoissonNoise(peak=peak), "photons of white", 200.0, 1.0, geometric=True),
    "salt_pepper": Adjustable(lambda amount: SaltAndPepper(amount=amount), "share of pixels", 0.0, 0.5),
    "speckle": Adjustable(lambda looks: Speckle(looks=looks, correlation=0.0), "looks", 32.0, 0.5, geometric=True),
    "occlusion": Adjustable(lambda size: Occlusion(size=size), "share of the side", 0.0, 0.7),
    "jpeg": Adjustable(lambda quality: JPEG(quality=round(quality)), "quality", 95.0, 1.0),
}
"""By the names of `corruption=`."""


def adjustable(name: str) -> Adjustable:
    """A corruption of the page.

    Raises:
        UserError: If there is none of that name.
    """
    if name not in ADJUSTABLE:
        raise UserError(f"corruption={name}: expected run, none, {', '.join(ADJUSTABLE)}{nearest(name, ADJUSTABLE)}")
    return ADJUSTABLE[name]
