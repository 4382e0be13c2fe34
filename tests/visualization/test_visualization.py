from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from saaae.rng import GlobalRandom
from saaae.types import Batch
from saaae.visualization.figures import STRIP_COLUMNS, EpochStrip, gate_bars
from saaae.visualization.mosaic import CELL, Row, mosaic, save_picture
from saaae.visualization.panels import interpolation_rows, outlined, plane_rows, ratio_row, traversal_rows


def test_every_image_is_at_its_position_in_the_mosaic():
    rows = [
        Row("a", torch.stack([torch.full((1, 8, 8), 0.2), torch.full((1, 8, 8), 0.4)])),
        Row("colour", torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(2, 3, 8, 8)),
        Row("a map of another size", torch.ones(2, 1, 1, 4), "viridis"),
    ]
    picture = mosaic(rows, "title", ["first", "second"])
    assert picture.dtype == np.uint8
    for value in (51, 102):
        assert (picture == value).all(2).sum() >= CELL * CELL  # letters also contain a few such pixels
    assert (picture == (255, 0, 0)).all(2).sum() == 2 * CELL * CELL
    yellow = (253, 231, 37)  # the end of viridis
    assert (np.abs(picture.astype(int) - yellow).max(2) <= 2).sum() == 2 * CELL * CELL
    left, right = (np.median((picture == value).all(2).nonzero()[1]) for value in (51, 102))
    assert left < right


def test_values_outside_the_range_are_clipped_and_not_wrapped():
    picture = mosaic([Row("", torch.tensor([-0.5, 1.5]).view(2, 1, 1, 1).expand(2, 1, 8, 8))], "")
    assert (picture == 0).all(2).sum() >= CELL * CELL
    assert picture[-CELL // 2, -CELL // 2].tolist() == [255] * 3


def test_a_long_title_is_not_cut_off():
    assert mosaic([Row("", torch.zeros(1, 1, 8, 8))], "word " * 40).shape[1] > 900


def posterior_at(mode, prior_mean=0.0, prior_scale=1.0):
    """A posterior with a mode, over a prior with one mean and standard deviation."""
    like = torch.ones_like(mode)
    return SimpleNamespace(mode=mode, prior_mean=prior_mean * like, prior_scale=prior_scale * like)


def test_traversals_move_around_the_prior():
    model = SimpleNamespace(
        num_classes=None,
        latent_shape=(2,),
        encode=lambda batch: posterior_at(torch.tensor([[0.1, 0.2]]), prior_mean=5.0, prior_scale=0.5),
        generate=lambda z, label=None: z[:, :, None, None],
    )
    rows = traversal_rows(model, SimpleNamespace(label=None), torch.tensor([1.0, 2.0]), steps=3)
    assert rows[0].images[:, 1, 0, 0].tolist() == pytest.approx([3.5, 5.0, 6.5])
    assert rows[0].images[:, 0, 0, 0].tolist() == pytest.approx([0.1] * 3)


def test_traversals_vary_one_dimension_at_a_time_in_order_of_kl():
    model = SimpleNamespace(
        latent_shape=(3,),
        num_classes=None,
        encode=lambda batch: posterior_at(torch.tensor([[0.1, 0.2, 0.3]])),
        generate=lambda z, label=None: z[:, :, None, None],
    )
    rows = traversal_rows(model, batch_of(torch.zeros(1, 1, 4, 4)), torch.tensor([0.5, 2.0, 0.1]), rows=2, steps=3)
    assert [row.label for row in rows] == ["1: 2.00 nats", "0: 0.50 nats"]
    assert rows[0].images[..., 0, 0].tolist() == [pytest.approx([0.1, v, 0.3]) for v in (-3, 0, 3)]
    assert rows[1].images[..., 0, 0].tolist() == [pytest.approx([v, 0.2, 0.3]) for v in (-3, 0, 3)]


def test_traversals_of_a_latent_map_vary_whole_channels_in_order_of_their_summed_kl():
    model = SimpleNamespace(
        latent_shape=(2, 2, 2),
        num_classes=None,
        encode=lambda batch: posterior_at(torch.zeros(1, 2, 2, 2)),
        generate=lambda z, label=None: z,
    )
    kl = torch.tensor([0.1, 0.1, 0.1, 0.9, 0.4, 0.4, 0.4, 0.4])
    (row,) = traversal_rows(model, batch_of(torch.zeros(1, 1, 4, 4)), kl, rows=1, steps=3)
    assert row.label == "1: 1.60 nats"
    assert (row.images[0] == torch.tensor([0.0, -3.0])[:, None, None]).all()


def test_interpolations_start_and_end_at_the_reconstructions():
    codes = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    model = SimpleNamespace(
        num_classes=None,
        encode=lambda batch: SimpleNamespace(mode=codes),
        generate=lambda z, label=None: z[:, :, None, None],
    )
    rows = interpolation_rows(model, batch_of(torch.zeros(4, 1, 4, 4)), steps=5)
    assert len(rows) == 2
    for number, row in enumerate(rows):
        torch.testing.assert_close(row.images[[0, 2, 4], :, 0, 0], torch.stack(
            [codes[2 * number], codes[2 * number : 2 * number + 2].mean(0), codes[2 * number + 1]]
        ))  # fmt: skip


def test_the_plane_is_spaced_by_quantiles_of_the_prior():
    model = SimpleNamespace(num_classes=None, generate=lambda z, label=None: z[:, :, None, None])
    rows = plane_rows(model, torch.device("cpu"), side=3)
    shares = torch.special.ndtr(torch.stack([row.images[..., 0, 0] for row in rows]))
    torch.testing.assert_close(shares[:, 0, 0], torch.tensor([0.97, 0.5, 0.03]))  # from top to bottom
    torch.testing.assert_close(shares[0, :, 1], torch.tensor([0.03, 0.5, 0.97]))
    assert (rows[0].label, rows[2].label) == ("+1.88", "-1.88")


def test_the_ratio_image_is_middle_gray_where_only_speckle_was_removed():
    speckle = torch.tensor([0.5, 1.0, 1.5, 4.0]).view(1, 1, 2, 2)
    clean = torch.full((1, 1, 2, 2), 0.4)
    row = ratio_row(batch_of(clean * speckle.sqrt()), clean)
    torch.testing.assert_close(row.images, speckle / 2)


def test_the_outline_is_around_the_defect_and_not_on_it():
    mask = torch.zeros(1, 1, 16, 16, dtype=torch.uint8)
    mask[..., 5:9, 5:9] = 1
    mask[..., 12:, :] = 255  # unknown
    shown = outlined(torch.full((1, 1, 16, 16), 0.5), mask)
    red = (shown[0, 0] == 1.0) & (shown[0, 1] < 0.2)
    assert red[3:11, 3:11].sum() == 8 * 8 - 4 * 4
    assert red.sum() == 8 * 8 - 4 * 4
    assert (shown[..., 5:9, 5:9] == 0.5).all()


def batch_of(x):
    return Batch(x, x, torch.arange(len(x)), GlobalRandom())


def test_each_gate_layer_has_a_panel():
    gates = {"encoder.3": torch.rand(4, 16) * 2, "decoder.1": torch.rand(4, 8) * 2}
    one, two = (gate_bars(dict(list(gates.items())[:number]), "t") for number in (1, 2))
    assert two.shape[0] > one.shape[0]
    assert two.dtype == np.uint8
    assert two.std() > 10


def test_the_epoch_strip_keeps_few_epochs_in_order_and_always_the_latest(tmp_path):
    strip = EpochStrip(tmp_path / "epochs.npz")
    for epoch in range(1, 101):
        strip.add(epoch, torch.full((2, 1, 4, 4), epoch / 255), limit=True)
        assert len(strip.epochs) == min(epoch, STRIP_COLUMNS)
        assert (strip.epochs[0], strip.epochs[-1]) == (1, epoch)
    assert max(np.diff(strip.epochs)) <= 16  # 100 epochs in 12 columns
    assert strip.images[:, 0, 0, 0, 0].tolist() == strip.epochs
    strip.add(101, torch.zeros(2, 1, 4, 4), limit=False)
    assert strip.epochs[-1] == 101


def test_the_epoch_strip_continues_at_the_resumed_epoch(tmp_path):
    strip = EpochStrip(tmp_path / "epochs.npz")
    for epoch in (1, 2, 3):
        strip.add(epoch, torch.full((1, 1, 4, 4), epoch / 255), limit=True)
    again = EpochStrip(tmp_path / "epochs.npz")
    again.resume(2)
    assert again.epochs == [1, 2]
    again.add(3, torch.full((1, 1, 4, 4), 9 / 255), limit=True)
    assert again.images[:, 0, 0, 0, 0].tolist() == [1, 2, 9]
    restarted = EpochStrip(tmp_path / "epochs.npz")
    restarted.resume(0)
    assert restarted.epochs == []
    assert again.picture(torch.zeros(1, 1, 4, 4), "t").shape[1] > 4 * CELL


def test_a_saved_picture_equals_the_drawn_pixels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    save_picture(tmp_path / "new" / "a.png", pixels)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "new" / "a.png")), pixels)
