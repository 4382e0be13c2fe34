"""The default data set: synthetic scenes under simulated speckle."""

from typing import Literal, Unpack

import numpy as np
import torch
from numpy.typing import NDArray

from saaae.data.datamodule import ImageDataModule, Manifest, Serving, generated
from saaae.data.defects import between
from saaae.data.images import Images, RawBatch, to_unit_range
from saaae.data.scenes import FAMILIES, generate_scenes
from saaae.data.speckle_model import check_looks, speckle_amplitude
from saaae.data.tiles import cut_tiles
from saaae.data.varied_scenes import VARIED
from saaae.errors import UserError
from saaae.ranges import Correlation, ImageSize, Interval, Looks, PositiveInt, Target
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
        target: `noisy`: an autoencoder of the speckled image. `clean`: a despeckler. `second`: a despeckler without
            clean images, which compares with a second, independent draw of the speckle (for `likelihood=speckle`).
        families: Kinds of scenes: `basic`, or `varied` with those of `saaae.data.varied_scenes` besides.
        gain: A training image and its target are multiplied by a factor, log-uniform between these two, so that the
            scale of an image matters less; None for 1.
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
        target: Target[Literal["noisy", "clean", "second"]],
        families: Literal["basic", "varied"],
        gain: Target[Interval | None],
        scene_size: ImageSize | None,
        image_size: ImageSize,
        channels: Literal[1],
        **serving: Unpack[Serving],
    ) -> None:
        super().__init__(image_size=image_size, channels=channels, **serving)
        self.counts: dict[Split, int] = {"train": num_train, "val": num_val, "test": num_test}
        check_looks("data", looks, correlation)
        if not clip and target == "noisy":
            raise UserError("data.clip=false: a noisy target would exceed 1; expected data.target=clean or second")
        if clip and target == "second":
            raise UserError("data.clip=true: a clipped second look is darker on average; expected data.clip=false")
        if gain is not None and (gain[0] > gain[1] or (clip and gain[1] > 1)):
            raise UserError(f"data.gain={gain}: expected the lower first, and at most 1 unless data.clip=false")
        self.looks, self.correlation, self.clip, self.target = looks, correlation, clip, target
        self.families, self.gain = FAMILIES if families == "basic" else (*FAMILIES, *VARIED), gain
        self.scene_size = scene_size or image_size
        if self.scene_size % image_size:
            raise UserError(f"data.scene_size={scene_size}: expected a multiple of data.image_size={image_size}")

    splits: dict[Split, Images]

    def load(self) -> dict[Split, Images]:
        """Generates the scenes of all splits and cuts them."""
        return {
            split: Images(self._tiles(generate_scenes(count, self.scene_size, (self.seed, number), self.families)))
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
        noisy = self._speckled(clean, rng)
        target = self._speckled(clean, rng) if self.target == "second" else clean if self.target == "clean" else noisy
        return Batch(noisy, target, raw.indices, rng, clean=clean)

    def _speckled(self, clean: torch.Tensor, rng: RandomSource) -> torch.Tensor:
        noisy = speckle_amplitude(clean, self.looks, self.correlation, rng)
        return noisy.clamp(0.0, 1.0) if self.clip else noisy

    def augmented(self, batch: Batch) -> Batch:
        """A training batch under the random gain."""
        if self.gain is None or batch.clean is None:
            return batch
        gain = between(self.gain, batch.clean, batch.rng)
        noisy, clean = gain * batch.input, gain * batch.clean
        target = gain * batch.target if self.target == "second" else clean if self.target == "clean" else noisy
        return batch._replace(input=noisy, target=target, clean=clean)
