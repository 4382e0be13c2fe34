import json

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from saaae.metrics.pixel_detection import BINS, PixelDetection, ordered_bins, smooth
from saaae.metrics.ranking import auroc, average_precision, best_f1, bootstrap_interval, counts_of, detection
from saaae.metrics.tile_detection import (
    FabricCalibration,
    ScoredTiles,
    at_threshold,
    evaluate_detection,
    held_out_threshold,
)
from tests.metrics import references_anomaly as reference

METRICS = [(auroc, reference.auroc), (average_precision, reference.average_precision), (best_f1, reference.best_f1)]
UNKNOWN = 255


@pytest.fixture
def tiles():
    """Scores, labels and strips of 300 tiles; many scores are tied, also between the classes."""
    rng = np.random.default_rng(0)
    labels = (rng.random(300) < 0.2).astype(int)
    scores = np.where(rng.random(300) < 0.5, rng.integers(-3, 3, 300), rng.normal(size=300)) + labels
    return scores, labels, rng.integers(0, 20, 300)


@pytest.mark.parametrize(("metric", "expected"), METRICS)
def test_curves_equal_scikit_learn_with_ties(tiles, metric, expected):
    scores, labels, _ = tiles
    assert len(np.unique(scores)) < 200
    assert abs(metric(counts_of(scores, labels)) - expected(scores, labels)) < 1e-9


@pytest.mark.parametrize(("metric", "expected"), METRICS)
def test_several_sets_of_weights_equal_scikit_learn_one_by_one(tiles, metric, expected):
    scores, labels, _ = tiles
    weights = np.random.default_rng(1).integers(0, 3, (4, 300)) * np.array([[0.5], [1], [2], [1]])
    found = metric(counts_of(scores, labels, weights))
    np.testing.assert_allclose(found, [expected(scores, labels, row) for row in weights], rtol=0, atol=1e-9)


def test_curves_of_four_tiles_equal_values_computed_by_hand():
    scores, labels = [4.0, 3.0, 2.0, 1.0], [1, 0, 1, 0]
    assert auroc(counts_of(scores, labels)) == 3 / 4
    assert average_precision(counts_of(scores, labels)) == (1 + 2 / 3) / 2
    assert best_f1(counts_of(scores, labels)) == 4 / 5


def test_infinite_scores_are_ties():
    assert auroc(counts_of([np.inf, np.inf, 0.0, -np.inf, -np.inf], [1, 0, 0, 1, 0])) == (2.5 + 0.5) / 6


@pytest.mark.parametrize("metric", [auroc, average_precision, best_f1])
def test_one_class_no_tiles_and_nan_scores_give_nan(metric):
    for scores, labels in (([1.0, 2.0], [1, 1]), ([1.0, 2.0], [0, 0]), ([], []), ([1.0, 2.0, np.nan], [1, 0, 1])):
        assert np.isnan(metric(counts_of(scores, labels)))


def test_a_missing_label_is_refused():
    with pytest.raises(ValueError, match=r"scores \(2,\), labels \(3,\)"):
        counts_of([1.0, 2.0], [0, 1, 1])


@pytest.mark.parametrize(("metric", "expected"), METRICS)
def test_the_bootstrap_equals_a_plain_loop_over_the_same_resamples_of_whole_strips(tiles, metric, expected):
    found = bootstrap_interval(metric, *tiles, num_resamples=200, seed=3)
    np.testing.assert_allclose(found, reference.bootstrap_interval(expected, *tiles, 200, 3), rtol=0, atol=1e-9)


def test_resamples_with_one_class_are_left_out():
    scores, labels, strips = np.array([1.0, 2, 3, 4]), np.array([0, 0, 1, 1]), np.array(["a", "b", "c", "d"])
    assert bootstrap_interval(auroc, scores, labels, strips) == (1.0, 1.0)
    assert np.isnan(bootstrap_interval(auroc, scores, np.zeros(4), strips)).all()
    assert np.isnan(bootstrap_interval(auroc, [], [], [])).all()


def test_resampling_strips_of_identical_tiles_widens_the_interval(tiles):
    scores, labels, _ = (np.repeat(field[:30], 10) for field in tiles)
    of_strips = bootstrap_interval(auroc, scores, labels, np.repeat(np.arange(30), 10))
    of_tiles = bootstrap_interval(auroc, scores, labels, np.arange(300))
    assert of_strips[1] - of_strips[0] > 2 * (of_tiles[1] - of_tiles[0])


def test_detection_reports_every_number_with_its_interval(tiles):
    found = detection(*tiles)
    for name in ("auroc", "average_precision"):
        assert found[f"{name}_low"] < found[name] < found[f"{name}_high"]
    assert (found["defective"], found["sound"]) == (tiles[1].sum(), 300 - tiles[1].sum())
    assert found["auroc"] == auroc(counts_of(*tiles[:2]))


@pytest.fixture
def strips():
    """Smooth maps (H, W) of several sizes with negative values; masks with regions, unknown pixels, and one without."""
    rng = np.random.default_rng(0)
    maps, masks = [], []
    for height, width, corners in ((40, 60, [(5, 5), (20, 40)]), (32, 32, [(0, 0), (10, 20), (29, 4)]), (24, 50, [])):
        score_map, mask = gaussian_filter(rng.normal(size=(height, width)), 2) * 5, np.zeros((height, width), np.uint8)
        for y, x in corners:
            side = rng.integers(2, 8)
            mask[y : y + side, x : x + side + 3] = 1
            score_map[y : y + side, x : x + side] += rng.uniform(0, 2)
        mask[-4:, -9:] = UNKNOWN
        maps.append(score_map.astype(np.float32))
        masks.append(mask)
    return maps, masks


def pixel_metric(maps, masks):
    metric = PixelDetection()
    for score_map, mask in zip(maps, masks, strict=True):
        metric.update(torch.from_numpy(score_map), torch.from_numpy(mask))
    return metric


@pytest.mark.parametrize(("scale", "shift"), [(1, 0), (0.2, 0), (1, -3), (5, 2), (100, 50)])
def test_pixel_metrics_of_standardised_maps_equal_references_without_bins(strips, scale, shift):
    maps, masks = [m * np.float32(scale) + np.float32(shift) for m in strips[0]], strips[1]
    found, expected = pixel_metric(maps, masks).compute(), reference.pixel_detection(maps, masks)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert abs(found[name] - value) < 1e-4, name


def test_unknown_pixels_are_left_out(strips):
    maps, masks = strips
    expected = pixel_metric(maps, masks).compute()
    loud = [np.where(mask == UNKNOWN, np.float32(1e9), score_map) for score_map, mask in zip(maps, masks, strict=True)]
    assert pixel_metric(loud, masks).compute() == expected
    sound = [np.where(mask == UNKNOWN, 0, mask).astype(np.uint8) for mask in masks]
    assert pixel_metric(loud, sound).compute()["pixel_auroc"] < expected["pixel_auroc"]


def test_the_states_of_two_processes_sum_to_that_of_one(strips):
    maps, masks = strips
    one, first, second = pixel_metric(maps, masks), pixel_metric(maps[:1], masks[:1]), pixel_metric(maps[1:], masks[1:])
    for name in first._defaults:
        assert first._reductions[name] is torch.sum or first._reductions[name].__name__ == "dim_zero_sum"
        setattr(first, name, getattr(first, name) + getattr(second, name))
    assert first.compute() == pytest.approx(one.compute(), abs=1e-12)


def test_regions_have_equal_weight_regardless_of_size():
    mask, score_map = np.zeros((20, 50), np.uint8), np.zeros((20, 50), np.float32)
    mask[2:12, 2:12] = 1
    mask[15, 30] = mask[16, 31] = 1  # two pixels that touch at a corner are one region
    score_map[15, 30] = score_map[16, 31] = 1
    found = pixel_metric([score_map], [mask]).compute()
    # The curve rises from (0, 0) to (0, 1/2) at the small region, then straight to (1, 1) at the tie of all others.
    assert found["aupro_30"] == pytest.approx(0.5 + 0.5 * 0.3 / 2, abs=1e-12)
    assert found["aupro_05"] == pytest.approx(0.5 + 0.5 * 0.05 / 2, abs=1e-12)


def test_a_perfect_map_scores_one_in_everything():
    mask = np.zeros((20, 50), np.uint8)
    mask[3:6, 7:9] = 1
    found = pixel_metric([mask.astype(np.float32)], [mask]).compute()
    assert found == pytest.approx(dict.fromkeys(found, 1.0), abs=1e-12)


def test_bins_preserve_the_order_of_scores_and_separate_close_scores():
    sizes = torch.cat([torch.linspace(0.0, 1, 40_001)[1:], 10.0 ** torch.linspace(0, 6, 300_000)[1:]])
    scores = torch.cat([-sizes.flip(0), torch.zeros(1), sizes]).float()
    bins = ordered_bins(scores)
    assert (bins.diff() > 0).all()
    assert bins.min() == 1
    assert bins.max() == BINS - 1
    assert ordered_bins(torch.tensor([-torch.inf, torch.inf, torch.nan])).tolist() == [1, BINS - 1, 0]
    assert ordered_bins(torch.tensor(-0.0)) == ordered_bins(torch.tensor(0.0))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_nan_score_makes_all_pixel_metrics_nan(strips, sign):
    maps, masks = strips
    maps[0][0, 0] = np.copysign(np.float32(np.nan), np.float32(sign))
    assert all(np.isnan(value) for value in pixel_metric(maps, masks).compute().values())


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_pixel_metrics_of_one_class_or_no_pixels_are_nan(strips):
    maps, masks = strips
    for found in (pixel_metric(maps[2:], masks[2:]), pixel_metric([], []), pixel_metric([maps[0]], [masks[0] * 0 + 1])):
        assert all(np.isnan(value) for value in found.compute().values())


@pytest.mark.parametrize(("shape", "sigma"), [((40, 33), 4.0), ((40, 33), 0.7), ((9, 64), 4.0), ((1, 5), 2.0)])
def test_smoothing_equals_scipy_even_if_the_window_is_larger_than_the_map(shape, sigma):
    x = np.random.default_rng(0).normal(size=(2, 1, *shape)).astype(np.float32)
    expected = np.stack([reference.smooth(image[0], sigma) for image in x])[:, None]
    np.testing.assert_allclose(smooth(torch.from_numpy(x), sigma).numpy(), expected, rtol=0, atol=1e-5)


def test_smoothing_with_zero_sigma_changes_nothing():
    x = torch.rand(2, 1, 5, 6)
    assert torch.equal(smooth(x, 0.0), x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_smoothing_is_done_in_float32_under_autocast(dtype):
    x = torch.rand(2, 1, 20, 20).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        found = smooth(x, 2.0)
    torch.testing.assert_close(found, smooth(x.float(), 2.0), rtol=0, atol=0)


def test_z_scores_use_the_statistics_of_the_fabric_or_pooled_ones_if_it_is_unseen():
    calibration = FabricCalibration([1.0, 3.0, 10.0, 30.0], [0, 0, 4, 4])
    np.testing.assert_allclose(calibration.z_scores([2.0, 3.0, 40.0], [0, 0, 4]), [0, 1, 2])
    pooled = np.array([1.0, 3.0, 10.0, 30.0])
    np.testing.assert_allclose(calibration.z_scores([7.0], [8]), [(7 - pooled.mean()) / pooled.std()])
    assert calibration.z_scores([], []).shape == (0,)


def test_a_fabric_of_one_tile_keeps_finite_z_scores():
    calibration = FabricCalibration([1.0, 3.0, 5.0], [0, 0, 4])
    assert calibration.moments(4) == (5.0, pytest.approx(1e-3 * np.std([1, 3, 5])))
    assert np.isfinite(FabricCalibration([2.0], [0]).z_scores([3.0], [0])).all()


def test_pixel_statistics_are_computed_from_means_and_mean_squares_of_maps():
    maps = np.random.default_rng(0).normal(3, 2, (6, 50))
    calibration = FabricCalibration(maps.mean(1), [0, 0, 0, 4, 4, 4], (maps**2).mean(1))
    np.testing.assert_allclose(calibration.moments(4), (maps[3:].mean(), maps[3:].std()))


def test_at_most_the_given_fraction_of_held_out_defect_free_tiles_raises_an_alarm():
    scores = np.arange(1000.0)
    threshold = held_out_threshold(scores, 0.01)
    assert threshold == 990
    assert at_threshold(scores, np.zeros(1000), threshold)["false_alarm_rate"] == 0.009
    few = np.random.default_rng(0).normal(size=90)
    assert held_out_threshold(few, 0.01) == few.max()


def test_recall_and_false_alarms_equal_values_computed_by_hand():
    found = at_threshold([5.0, 4.0, 3.0, 2.0, 1.0, 0.0], [1, 0, 1, 1, 0, 0], 2.0)  # no alarm at the threshold itself
    assert found == {"recall": 2 / 3, "false_alarm_rate": 1 / 3, "precision": 2 / 3, "f1": 2 / 3}


def test_recall_and_false_alarms_are_nan_without_tiles_to_count():
    silent = at_threshold([0.0, 1.0], [0, 1], 2.0)
    assert (silent["recall"], silent["false_alarm_rate"], silent["f1"]) == (0, 0, 0)
    assert np.isnan(silent["precision"])
    assert np.isnan(at_threshold([1.0], [0], 0.0)["recall"])
    assert all(np.isnan(value) for value in at_threshold([np.nan, 1.0], [0, 1], 0.5).values())


@pytest.fixture
def scored():
    """Two defect-free and three defective strips of fabrics 0 and 3; the strip of fabric 8 has no mask."""
    rows = [
        (0.0, 0, 10, 0, 0), (2.0, 0, 10, 0, 0), (1.0, 0, 11, 3, 0), (0.5, 0, 11, 3, 0),
        (3.0, 1, 12, 0, 19), (9.0, 0, 12, 0, 19), (1.5, 1, 13, 3, 2), (0.1, 0, 13, 3, 2), (7.0, -1, 14, 8, 25),
    ]  # fmt: skip
    return ScoredTiles(*map(np.array, zip(*rows, strict=True)))


def test_defective_tiles_are_compared_with_defect_free_strips_and_strips_by_their_highest_tile(scored):
    found = evaluate_detection(scored, 1.0)
    assert (found["tile"]["defective"], found["tile"]["sound"]) == (2, 4)
    assert found["tile"]["auroc"] == 7 / 8
    assert (found["tile_all"]["defective"], found["tile_all"]["sound"]) == (2, 6)
    assert found["tile_all"]["auroc"] == pytest.approx(9 / 12)
    assert (found["image"]["defective"], found["image"]["sound"]) == (3, 2)
    assert found["image"]["auroc"] == pytest.approx(5 / 6)  # 9, 1.5 and 7 against 2 and 1
    assert found["threshold"] == {"value": 1.0, **at_threshold([0, 2, 1, 0.5, 3, 1.5], [0, 0, 0, 0, 1, 1], 1.0)}


def test_results_are_reported_per_fabric_and_per_defect(scored):
    found = evaluate_detection(scored, 1.0)
    assert found["per_fabric"].keys() == {"00", "03", "08"}
    assert found["per_fabric"]["00"] == {"auroc": 1.0, "average_precision": 1.0, "defective": 1, "sound": 2}
    assert np.isnan(found["per_fabric"]["08"]["auroc"])
    assert found["per_defect"].keys() == {"002", "019"}
    assert found["per_defect"]["002"] == {"auroc": 3 / 4, "average_precision": 1 / 2, "defective": 1, "sound": 4}


def test_the_result_is_plain_numbers(scored):
    found = evaluate_detection(scored, 1.0)
    assert json.loads(json.dumps(found))["tile"] == found["tile"]
