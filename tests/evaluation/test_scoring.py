from functools import partial

import numpy as np
import pytest
import torch

from saaae.data.cached_files import TileLocations
from saaae.evaluation.detection import columns_in_strip, detect, detection_scores, is_reserved
from saaae.evaluation.scoring import ByFabric, ByPosition
from saaae.metrics.catalog import MEASURES
from saaae.metrics.pixel_detection import PixelDetection
from saaae.metrics.tile_detection import PositionCalibration
from tests.evaluation.test_detection import Tiles, own_pixels

SIZE = 8


def test_positions_have_the_moments_of_their_columns():
    generator = np.random.default_rng(0)
    maps = generator.normal(size=(6, SIZE, SIZE))
    fabrics, left = np.array([2, 2, 2, 5, 5, 5]), np.array([0, 8, 0, 0, 8, 8])
    found = PositionCalibration(maps.mean(1), (maps**2).mean(1), fabrics, left, 4)
    mean, std = found.moments(2, 4, 12)
    first, second = maps[[0, 2]][..., 4:], maps[1][:, :4]
    assert mean[0] == mean[3] == pytest.approx(first.mean())
    assert std[0] == pytest.approx(first.std())
    assert mean[4] == pytest.approx(second.mean())
    assert std[7] == pytest.approx(second.std())
    beyond = found.moments(2, 16, 4)
    assert beyond[0] == pytest.approx(maps[1][:, 4:].mean())
    assert beyond[1] == pytest.approx(maps[1][:, 4:].std())
    unknown = found.moments(9, 0, 4)
    assert unknown[0] == pytest.approx(maps.mean())
    assert unknown[1] == pytest.approx(maps.std())


def test_a_tile_scores_as_the_highest_pixel_of_its_position():
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(40, 1, SIZE, SIZE, generator=generator) + 3
    fabrics, left = torch.arange(40) % 2, torch.arange(40) // 2 % 2 * SIZE
    maps[left == 0, :, :, :4] += 20  # a selvage
    scoring = ByPosition(4, sigma=0.0)
    for part in torch.arange(40).split(7):
        scoring.learn(maps[part], fabrics[part], left[part])
    mine = (fabrics == 1) & (left == 0)
    columns = maps[mine][..., :4].double(), maps[mine][..., 4:].double()
    expected = torch.cat([(part - part.mean()) / part.std(correction=0) for part in columns], -1)
    found = scoring.tiles(maps[mine], fabrics[mine], left[mine])
    assert found == pytest.approx(expected.flatten(1).amax(1).numpy(), rel=1e-4)
    whole = scoring.strip(torch.cat([maps[mine][0, 0], maps[(fabrics == 1) & (left == SIZE)][0, 0]], 1), 1)
    torch.testing.assert_close(whole[:, :SIZE].double(), expected[0, 0], rtol=1e-4, atol=1e-4)


def test_a_selvage_hides_no_defect_when_positions_are_compared(monkeypatch):
    monkeypatch.setattr("saaae.evaluation.detection.ByPosition", partial(ByPosition, sigma=0.0))
    plain, data = Tiles(), Tiles()
    for split in data.splits:
        first = columns_in_strip(data.places(split)) == 0
        data.splits[split].pixels[first, :, :, : data.image_size // 2] += 5.0
    without, found = detect(own_pixels, plain), detect(own_pixels, data)
    assert found["tile"]["auroc"] < without["tile"]["auroc"] - 0.05
    for name in ("auroc", "average_precision"):
        assert found["by_position"]["tile"][name] == pytest.approx(without["by_position"]["tile"][name])
    assert found["by_position"]["pixel"] == pytest.approx(without["by_position"]["pixel"], abs=1e-3)


def test_reserved_strips_are_a_fixed_third():
    names = [f"Defect_images/{number:04d}_019_02.png" for number in range(900)]
    reserved = [is_reserved(name) for name in names]
    assert 0.28 < np.mean(reserved) < 0.38
    assert [is_reserved(name.replace("Defect_images/", "elsewhere/")) for name in names] == reserved


def test_development_and_reserved_strips_are_reported_apart():
    data = Tiles()
    found = detect(own_pixels, data)["by_position"]
    defective = [i for i, (*_, defect) in enumerate(data.strips) if defect]
    reserved = [i for i in defective if is_reserved(data.file_names[i])]
    assert 0 < len(reserved) < len(defective)
    for part, count in (("reserved", len(reserved)), ("development", len(defective) - len(reserved))):
        assert found[part]["image"]["defective"] == count
        assert found[part]["image"]["sound"] == found["image"]["sound"]
    tiles = [found[part]["tile"]["defective"] for part in ("reserved", "development")]
    assert sum(tiles) == found["tile"]["defective"]
    scores = detection_scores(detect(own_pixels, data))
    assert scores["tile_auroc_by_position"] == found["tile"]["auroc"]
    assert scores["tile_ap_reserved"] == found["reserved"]["tile"]["average_precision"]
    assert scores.keys() <= MEASURES.keys()


def test_metrics_of_several_parts_are_those_of_all_their_strips():
    generator = torch.Generator().manual_seed(0)
    strips = [(torch.randn(8, 20, generator=generator), torch.zeros(8, 20, dtype=torch.uint8)) for _ in range(4)]
    whole, parts = PixelDetection(), [PixelDetection(), PixelDetection()]
    for number, (score, mask) in enumerate(strips):
        mask[2:4, 3 * number : 3 * number + 4] = 1
        whole.update(score, mask)
        parts[number % 2].update(score, mask)
    assert PixelDetection.of_all(parts).compute() == pytest.approx(whole.compute())


def test_columns_count_from_the_first_tile_of_a_strip():
    places = TileLocations(torch.tensor([0, 0, 2, 2]), torch.tensor([[0, 37], [0, 45], [0, 5], [0, 1]]))
    assert columns_in_strip(places).tolist() == [0, 8, 4, 0]


def test_by_fabric_standardises_the_maximum():
    maps = torch.rand(10, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    scoring, fabrics = ByFabric(0.0), torch.zeros(10, dtype=torch.int64)
    scoring.learn(maps, fabrics, fabrics)
    highest = maps.flatten(1).amax(1).double()
    expected = (highest - highest.mean()) / highest.std(correction=0)
    assert scoring.tiles(maps, fabrics, fabrics) == pytest.approx(expected.numpy())


def test_a_part_without_strips_has_no_metrics():
    found = detect(own_pixels, Tiles())
    found["by_position"]["reserved"] = {}
    scores = detection_scores(found)
    assert "tile_auroc_by_position" in scores
    assert not any(name.endswith("_reserved") for name in scores)
