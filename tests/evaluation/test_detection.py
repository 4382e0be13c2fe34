import numpy as np
import pytest
import torch

from saaae.data.cached_files import TileLocations
from saaae.data.datamodule import ImageDataModule
from saaae.data.images import UNKNOWN_MASK, Images, Masks
from saaae.data.tiles import cut_tiles
from saaae.evaluation.detection import detect, stitch_masks
from saaae.metrics.pixel_detection import smooth, squared_residual
from tests.conftest import SERVING
from tests.metrics import references_anomaly as reference

SIZE, STRIDE, WIDTH = 16, 8, 70
LEVEL = {0: (0.2, 0.02), 3: (0.5, 0.05)}
"""Mean and spread of the pixels of each fabric."""


def fabric(code, generator):
    mean, std = LEVEL.get(code, (0.3, 0.03))
    return mean + std * torch.randn(1, SIZE, WIDTH, generator=generator)


def strips(generator):
    """Test strips (image, mask, fabric, defect): per fabric two defect-free and two defective ones; one unknown."""
    found = []
    for code in LEVEL:
        for defect in (0, 0, 19, 2):
            image, mask = fabric(code, generator), torch.zeros(1, SIZE, WIDTH, dtype=torch.uint8)
            if defect:
                image[:, 4:9, 20:27] += 0.6 * LEVEL[code][1]
                mask[:, 4:9, 20:27] = 1
            found.append((image, mask, code, defect))
    return [*found, (fabric(8, generator), torch.full((1, SIZE, WIDTH), UNKNOWN_MASK, dtype=torch.uint8), 8, 25)]


class Tiles(ImageDataModule):
    """Tiles of strips whose pixels are used as anomaly maps."""

    def __init__(self):
        super().__init__(image_size=SIZE, channels=1, **SERVING)
        generator = torch.Generator().manual_seed(0)
        sound = [(fabric(code, generator), code) for code in LEVEL for _ in range(4)]
        self.splits = {split: self.sound(sound[first::2]) for first, split in enumerate(("train", "val"))}
        self.strips = strips(generator)
        cut = [cut_tiles(image, SIZE, STRIDE, cover=True) for image, *_ in self.strips]
        masks = torch.cat([cut_tiles(mask, SIZE, STRIDE, cover=True)[0] for _, mask, *_ in self.strips])
        number = torch.repeat_interleave(torch.arange(len(cut)), torch.tensor([len(starts) for _, starts in cut]))
        label = masks.flatten(1).amax(1).long()
        codes = torch.tensor([strip[2:] for strip in self.strips])[number]
        self.splits["test"] = Images(
            torch.cat([tiles for tiles, _ in cut]),
            torch.where(label == UNKNOWN_MASK, -1, label),
            masks=Masks(masks, torch.arange(len(masks))),
            fabric=codes[:, 0],
            defect=codes[:, 1],
        )
        self.where = TileLocations(number, torch.cat([starts for _, starts in cut]) + torch.tensor([0, 37]))

    def places(self, split):
        if split == "test":
            return self.where
        count, tiles = len(self.splits[split].pixels), WIDTH // SIZE
        column = 37 + SIZE * (torch.arange(count) % tiles)
        return TileLocations(torch.arange(count) // tiles, torch.stack([torch.zeros_like(column), column], 1))

    @property
    def file_names(self):
        return [f"Defect_images/{number:04d}_019_00.png" for number in range(len(self.strips))]

    def sound(self, images):
        tiles = [cut_tiles(image, SIZE)[0] for image, _ in images]
        codes = torch.cat([torch.full((len(part),), code) for part, (_, code) in zip(tiles, images, strict=True)])
        return Images(torch.cat(tiles), torch.zeros(len(codes), dtype=torch.int64), fabric=codes, defect=codes * 0)


@pytest.fixture(scope="module")
def data():
    return Tiles()


def own_pixels(batch):
    return batch.input


def test_pixels_of_whole_strips_are_scored_in_standard_deviations_of_their_fabric(data):
    train = data.splits["train"]
    moments = {code: (part.mean(), part.std()) for code in LEVEL if len(part := train.pixels[train.fabric == code])}
    whole = [(image[0], mask[0], *moments[code]) for image, mask, code, _ in data.strips if code in moments]
    maps = [((image - mean) / std).numpy() for image, _, mean, std in whole]
    expected = reference.pixel_detection(maps, [mask.numpy() for _, mask, *_ in whole])
    found = detect(own_pixels, data, sigma=0.0)["pixel"]
    assert found == pytest.approx(expected, abs=2e-4)  # the unknown strip is not counted


def test_a_tile_score_is_the_maximum_of_its_smoothed_map_standardised_by_fabric(data):
    found = detect(own_pixels, data, sigma=1.0)
    highest = {split: smooth(data.splits[split].pixels, 1.0).flatten(1).amax(1).numpy() for split in data.splits}
    fabrics = {split: data.splits[split].fabric.numpy() for split in data.splits}
    z = {split: np.zeros(len(highest[split])) for split in data.splits}
    for code in LEVEL:
        train = highest["train"][fabrics["train"] == code].astype(float)
        for split in z:
            mine = fabrics[split] == code
            z[split][mine] = (highest[split][mine] - train.mean()) / train.std()
    test = data.splits["test"]
    label, defect = test.label.numpy(), test.defect.numpy()
    known = (label == 1) | ((label == 0) & (defect == 0))
    assert 0.6 < found["tile"]["auroc"] < 0.99
    assert found["tile"]["auroc"] == pytest.approx(reference.auroc(z["test"][known], label[known]))
    assert found["tile_all"]["auroc"] == pytest.approx(reference.auroc(z["test"][label >= 0], label[label >= 0]))
    assert found["threshold"]["value"] == pytest.approx(z["val"].max())
    assert found["threshold"]["recall"] == pytest.approx((z["test"][label == 1] > z["val"].max()).mean())


def numbers(found):
    """All numbers in nested dictionaries."""
    return [number for value in found.values() for number in (numbers(value) if isinstance(value, dict) else [value])]


def test_detection_does_not_depend_on_the_batch_size(data, monkeypatch):
    found = detect(own_pixels, data)
    monkeypatch.setattr(data, "batch_size", 7)
    np.testing.assert_allclose(numbers(detect(own_pixels, data)), numbers(found), rtol=1e-6)


def test_masks_are_assembled_from_their_tiles():
    mask = (torch.rand(1, 30, 50) < 0.1).to(torch.uint8)
    tiles, starts = cut_tiles(mask, SIZE, STRIDE, cover=True)
    assert torch.equal(stitch_masks(tiles, starts + torch.tensor([3, 40])), mask[0])
    assert (stitch_masks(tiles[[0, -1]], starts[[0, -1]])[:SIZE, SIZE : 50 - SIZE] == UNKNOWN_MASK).all()


def test_the_squared_residual_is_a_mean_over_channels():
    x, x_hat = torch.rand(2, 3, 4, 5), torch.rand(2, 3, 4, 5)
    expected = ((x - x_hat)[1, :, 2, 3] ** 2).mean()
    torch.testing.assert_close(squared_residual(x_hat, x)[1, 0, 2, 3], expected)
