"""The default data set: synthetic scenes under simulated speckle."""

from typing import Literal, Unpack

import numpy as np
import torch
from numpy.typing import NDArray

from saaae.data.datamodule import ImageDataModule, Manifest, Serving, generated
from saaae.data.images import Images, RawBatch, to_unit_range
from saaae.data.scenes import generate_scenes
from saaae.data.speckle_model import check_looks, speckle_amplitude
from saaae.data.tiles import cut_tiles
from saaae.errors import UserError
from saaae.ranges import Correlation, ImageSize, Looks, PositiveInt, Target
from saaae.rng import RandomSource
from saaae.types import Batch, Split


class SpeckleData(ImageDataModule):
    """Synthetic scenes under multiplicative Gamma speckle; 1.0 is the highest amplitude of a scene.

    Training draws fresh speckle for every batch. Validation and test speckle is a function of (seed, image index).

    Args:
        num_train: Training scenes.
        num_val: Validation scenes.
        num_test: Test scenes.
        looks: Number of looks L; speckle has a coefficient of variation of 1/sqrt(L) in intensity. Any fraction for
            white speckle, a multiple of 0.5 for a correlated one. Of a list each image draws one.
        correlation: Correlation of neighbouring pixels' intensities; 0 is white. Of a list each image draws one, apart
            from its looks.
        clip: Whether speckled amplitudes are clipped at 1, as those of an 8-bit image; otherwise the input exceeds 1.
        target: `noisy`: an autoencoder of the speckled image. `clean`: a despeckler.
        scene_size: Side of the generated scenes, which are cut into tiles; None is `image_size`, a tile a scene.
        image_size: Side of a tile in pixels.
        channels: 1.
        **serving: How the images are served.
    """

    domain = "radar"

    def __init__(
        self,
        *,
        num_train: PositiveInt,
        num_val: PositiveInt,
        num_test: PositiveInt,
        looks: Target[Looks],
        correlation: Target[Correlation],
        clip: Target[bool],
        target: Target[Literal["noisy", "clean"]],
        scene_size: ImageSize | None,
        image_size: ImageSize,
        channels: Literal[1],
        **serving: Unpack[Serving],
    ) -> None:
        super().__init__(image_size=image_size, channels=channels, **serving)
        self.counts: dict[Split, int] = {"train": num_train, "val": num_val, "test": num_test}
        check_looks("data", looks, correlation)
        if not clip and target == "noisy":
            raise UserError("data.clip=false: a noisy target would exceed 1; expected data.target=clean")
        self.looks, self.correlation, self.clip, self.target = looks, correlation, clip, target
        self.scene_size = scene_size or image_size
        if self.scene_size % image_size:
            raise UserError(f"data.scene_size={scene_size}: expected a multiple of data.image_size={image_size}")

    splits: dict[Split, Images]

    def load(self) -> dict[Split, Images]:
        """Generates the scenes of all splits and cuts them."""
        return {
            split: Images(self._tiles(generate_scenes(count, self.scene_size, (self.seed, number))))
            for number, (split, count) in enumerate(self.counts.items())
        }

    def _tiles(self, scenes: NDArray[np.uint8]) -> torch.Tensor:
        if self.scene_size == self.image_size:
            return torch.from_numpy(scenes)
        return torch.cat([cut_tiles(scene, self.image_size)[0] for scene in torch.from_numpy(scenes)])

    def describe(self) -> Manifest:
        """Generated scenes; their digest changes with the generator."""
        return generated(self.splits, "scenes")

    def present(self, raw: RawBatch, rng: RandomSource) -> Batch:
        """Speckles the clean amplitude; clipped to [0, 1] if so set."""
        clean = to_unit_range(raw.pixels)
        noisy = speckle_amplitude(clean, self.looks, self.correlation, rng)
        if self.clip:
            noisy = noisy.clamp(0.0, 1.0)
        return Batch(noisy, clean if self.target == "clean" else noisy, raw.indices, rng, clean=clean)
