"""Simulated speckle: its law, and the default data set of synthetic scenes under it."""

from typing import Literal

import torch
from torch import Tensor

from saaae.data.datamodule import ImageDataModule, Images, RawBatch, to_unit_range
from saaae.data.scenes import generate_scenes
from saaae.noise import Noise
from saaae.ranges import ImageSize, NonNegativeInt, PositiveInt
from saaae.types import Batch, Split


def gamma_speckle(like: Tensor, looks: int, noise: Noise) -> Tensor:
    """Intensity speckle S ~ Gamma(shape L, scale 1/L): mean 1, variance 1/L (Goodman 1976), in the shape of `like`.

    For an integer number of looks, minus the log of a product of L uniforms; several times faster than a general
    Gamma sampler.
    """
    total = torch.zeros_like(like, dtype=torch.float32)
    for _ in range(looks):
        total -= torch.log(noise.uniform(like))
    return total / looks


def speckle_amplitude(amplitude: Tensor, looks: int, noise: Noise) -> Tensor:
    """Amplitude images under speckle: the root of intensity (amplitude squared) times S; not clipped."""
    return amplitude * torch.sqrt(gamma_speckle(amplitude, looks, noise))


class SpeckleData(ImageDataModule):
    """Synthetic scenes under multiplicative Gamma speckle; 1.0 is the highest amplitude of a scene.

    Training draws fresh speckle for every batch. Validation and test speckle is a function of (seed, image index).

    Args:
        num_train: Training scenes.
        num_val: Validation scenes.
        num_test: Test scenes.
        looks: Number of looks L; speckle has a coefficient of variation of 1/sqrt(L) in intensity.
        target: `noisy`: an autoencoder of the speckled image. `clean`: a despeckler.
        image_size: Side in pixels.
        channels: 1.
        batch_size: Images a batch.
        num_workers: Loader processes.
        seed: Seed of scenes, order and evaluation noise.
    """

    def __init__(
        self,
        *,
        num_train: PositiveInt,
        num_val: PositiveInt,
        num_test: PositiveInt,
        looks: PositiveInt,
        target: Literal["noisy", "clean"],
        image_size: ImageSize,
        channels: Literal[1],
        batch_size: PositiveInt,
        num_workers: NonNegativeInt,
        seed: NonNegativeInt,
    ) -> None:
        super().__init__(
            image_size=image_size, channels=channels, batch_size=batch_size, num_workers=num_workers, seed=seed
        )
        self.counts: dict[Split, int] = {"train": num_train, "val": num_val, "test": num_test}
        self.looks, self.target = looks, target

    def load(self) -> dict[Split, Images]:
        """Generates the scenes of all splits."""
        return {
            split: Images(torch.from_numpy(generate_scenes(count, self.image_size, (self.seed, number))))
            for number, (split, count) in enumerate(self.counts.items())
        }

    def present(self, raw: RawBatch, noise: Noise) -> Batch:
        """Speckles the clean amplitude, clipped to [0, 1]."""
        clean = to_unit_range(raw.pixels)
        noisy = speckle_amplitude(clean, self.looks, noise).clamp(0.0, 1.0)
        return Batch(noisy, clean if self.target == "clean" else noisy, raw.indices, noise, clean=clean)
