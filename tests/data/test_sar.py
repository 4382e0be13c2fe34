import numpy as np
import pytest
import torch
from PIL import Image

from saaae.data.corruption import Identity
from saaae.data.sar import SARData, split_scenes
from saaae.data.tiles import cut_tiles
from saaae.errors import UserError
from tests.conftest import real_data


def make(root, **options):
    defaults = {
        "scene_pattern": r"^(scene\d+)_", "val_fraction": 0.2, "test_fraction": 0.2, "image_size": 16, "channels": 1,
        "batch_size": 4, "num_workers": 0, "seed": 0, "corruption": Identity(),
    }  # fmt: skip
    return SARData(root=str(root), **{**defaults, **options})


@pytest.fixture
def scenes(tmp_path):
    """Six scenes of two touching images each; the gray level of an image is its scene."""
    for scene in range(6):
        for tile in range(2):
            mode = "RGB" if scene == 3 else "L"
            pixels = np.full((33, 48), 10 * scene, np.uint8)
            Image.fromarray(pixels).convert(mode).save(tmp_path / f"scene{scene:02d}_tile{tile}_000.png")
    return tmp_path


def test_tiles_cover_the_image_without_overlap():
    image = torch.arange(35 * 50).view(1, 35, 50)
    tiles = cut_tiles(image, 16)
    assert tiles.shape == (6, 1, 16, 16)
    assert torch.equal(tiles[4], image[:, 16:32, 16:32])


def test_no_scene_is_in_two_splits(scenes):
    data = make(scenes)
    data.setup()
    levels = {split: set(images.pixels.unique().tolist()) for split, images in data.splits.items()}
    assert not levels["train"] & levels["val"] | levels["train"] & levels["test"] | levels["val"] & levels["test"]
    assert set.union(*levels.values()) == {0, 10, 20, 30, 40, 50}
    assert sum(len(images.pixels) for images in data.splits.values()) == 6 * 2 * 6


def test_the_split_is_a_function_of_names_and_seed():
    names = [f"s{i}" for i in range(20)]
    assert split_scenes(names, 0.2, 0.2, 0) == split_scenes(names[::-1], 0.2, 0.2, 0)
    assert split_scenes(names, 0.2, 0.2, 0) != split_scenes(names, 0.2, 0.2, 1)


def test_mistakes_in_a_folder_are_named(scenes, tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        make(tmp_path / "nowhere").setup()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no image in it"):
        make(tmp_path / "empty").setup()
    with pytest.raises(UserError, match=r"data.image_size=64: no image"):
        make(scenes, image_size=64).setup()
    with pytest.raises(UserError, match="cannot be split into three"):
        make(scenes, val_fraction=0.5, test_fraction=0.5).setup()
    with pytest.raises(UserError, match="not a regular expression"):
        make(scenes, scene_pattern="(")
    with pytest.raises(UserError, match="expected a group"):
        make(scenes, scene_pattern="scene")


def test_images_of_sixteen_bits_are_refused_rather_than_clipped(scenes):
    Image.fromarray(np.full((32, 32), 40_000, np.uint16)).save(scenes / "scene07_tile0_000.png")
    with pytest.raises(UserError, match=r"scene07_tile0_000.png: an image of mode I;16"):
        make(scenes).setup()


@pytest.mark.parametrize("content", [b"", b"this is text", b"\x89PNG\r\n\x1a\n truncated"])
def test_a_broken_image_is_named(scenes, content):
    (scenes / "scene01_tile0_000.png").write_bytes(content)
    with pytest.raises(UserError, match="scene01_tile0_000.png: not a readable image"):
        make(scenes).setup()


def test_the_real_scenes_give_leak_free_tiles():
    data = make(real_data("sar", "mstar", "scenes"), image_size=128)
    data.setup()
    assert sum(len(images.pixels) for images in data.splits.values()) == 58 * 12
