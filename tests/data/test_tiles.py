import pytest
import torch

from saaae.data.tiles import cut_tiles, pad_to_tile, stitch_tiles, tile_starts


def test_tiles_cover_the_image_without_overlap():
    image = torch.arange(35 * 50).view(1, 35, 50)
    tiles, starts = cut_tiles(image, 16)
    assert tiles.shape == (6, 1, 16, 16)
    assert torch.equal(tiles[4], image[:, 16:32, 16:32])
    assert starts[4].tolist() == [16, 16]


def test_the_last_tile_is_aligned_with_the_end_if_the_remainder_is_covered():
    assert tile_starts(3796, 256, 128)[-1] == 3456
    assert tile_starts(3796, 256, 128, cover=True)[-2:] == [3456, 3796 - 256]
    assert tile_starts(512, 256, 128, cover=True) == [0, 128, 256]
    assert tile_starts(255, 256, 128, cover=True) == []


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("stride", [4, 7, 16])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (33, 47), (64, 17), (5, 40), (7, 9), (101, 16)])
def test_stitching_cut_tiles_restores_the_image(height, width, stride, channels):
    x = torch.rand(channels, height, width, generator=torch.Generator().manual_seed(0))
    tiles, starts = cut_tiles(pad_to_tile(x, 16), 16, stride, cover=True)
    torch.testing.assert_close(stitch_tiles(tiles, starts, height, width), x, rtol=0, atol=1e-6)


def test_overlapping_tiles_blend_without_a_seam():
    tiles = torch.stack([torch.zeros(1, 8, 8), torch.ones(1, 8, 8)])
    row = stitch_tiles(tiles, torch.tensor([[0, 0], [0, 4]]), 8, 12)[0, 4]
    assert row[:4].tolist() == [0.0] * 4
    assert row[8:].tolist() == [1.0] * 4
    assert (row[3:9].diff() > 0).all()


def test_the_image_is_black_where_there_is_no_tile():
    tile = torch.ones(1, 1, 4, 4)
    assert stitch_tiles(tile, torch.tensor([[0, 0]]), 4, 6)[0, 0].tolist() == [1, 1, 1, 1, 0, 0]
