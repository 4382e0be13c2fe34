import numpy as np
import pytest
import torch
from PIL import Image

from saaae.data.aitex import NO_FABRIC, AITEXData, fabric_start, strip_of
from saaae.errors import UserError
from saaae.rng import GlobalRandom
from tests.conftest import SERVING, real_data

HEIGHT, WIDTH, SIZE = 32, 256, 32


@pytest.fixture
def make(tmp_path):
    def made(root, setup=True, **options):
        defaults = {
            "val_fraction": 0.2, "test_fraction": 0.2, "test_steps": 2, "crop": None, "crop_noise": 0.0,
            "on_error": "raise", "allow_duplicates": False, "cache_dir": str(tmp_path / "cache"),
            "image_size": SIZE, "channels": 1,
            **SERVING,
        }  # fmt: skip
        data = AITEXData(root=str(root), **{**defaults, **options})
        if setup:
            data.setup()
        return data

    return made


def fabric(seed, width=WIDTH, level=120):
    """Woven texture: large differences between neighbouring columns."""
    rng = np.random.default_rng(seed)
    return np.clip(
        level + 30 * np.sign(np.sin(np.arange(width) * 2)) + rng.normal(0, 8, (HEIGHT, width)), 1, 250
    ).astype(np.uint8)


def background(seed, width, level):
    """Streaks along the rows, smooth from column to column."""
    rows = np.random.default_rng(seed).normal(level, 8, (HEIGHT, 1))
    return np.clip(np.repeat(rows, width, 1), 1, 250).astype(np.uint8)


def save(path, pixels, mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(path)


def spot(left, value=255, width=WIDTH):
    mask = np.zeros((HEIGHT, width), np.uint8)
    mask[10:14, left : left + 4] = value
    return mask


@pytest.fixture
def root(tmp_path):
    return write_fabric(tmp_path / "aitex")


def write_fabric(folder):
    """Two fabrics with five defect-free strips; defective strips with one, two, no, an empty and a smoothed mask."""
    for code in (1, 4):
        for i in range(5):
            name = f"{i + 1:04d}_00_{code:02d}" if (code, i) == (1, 0) else f"{i + 1:04d}_000_{code:02d}"
            save(
                folder / "NODefect_images" / f"fabric{code}" / f"{name}.png",
                fabric(10 * code + i),
                "LA" if code == 4 else "L",
            )
    for number, code in ((1, 1), (2, 4), (3, 1), (4, 1), (5, 8), (6, 1)):
        width = 244 if number == 6 else WIDTH
        save(folder / "Defect_images" / f"{number:04d}_019_{code:02d}.png", fabric(100 + number, width))
    masks = folder / "Mask_images"
    save(masks / "0001_019_01_mask.png", spot(40))
    save(masks / "0002_019_04_mask1.png", spot(8), "LA")
    save(masks / "0002_019_04_mask2.png", spot(200), "LA")
    save(masks / "0003_019_01_mask.png", spot(0, value=0))
    save(masks / "0004_019_01_mask.png", np.maximum(spot(100, 90), spot(102, 200)))
    save(masks / "0006_019_01_mask.png", spot(240, width=244))
    return folder


def tiles_of(data, name):
    """The test tiles of a strip, from left to right."""
    position = data._notes["names"].index(name)
    images = data.splits["test"]
    return images.take((data._files[images.rows] == position).nonzero().flatten())


def test_defect_free_strips_of_every_fabric_are_in_all_splits_and_defective_ones_in_test(make, root):
    data = make(root)
    splits = data.manifest()["splits"]
    for split, count in (("train", 3), ("val", 1), ("test", 1)):
        sound = [name for name in splits[split] if name.startswith("NODefect")]
        assert sorted(name.split("/")[1] for name in sound) == ["fabric1"] * count + ["fabric4"] * count
    assert len([name for name in splits["test"] if name.startswith("Defect")]) == 6
    assert not [name for split in ("train", "val") for name in splits[split] if name.startswith("Defect")]
    names = [name for split in splits.values() for name in split]
    assert len(names) == len(set(names)) == 16


def test_training_tiles_do_not_overlap_and_test_tiles_do(make, root):
    data = make(root)
    assert {split: set(counts.values()) for split, counts in data.manifest()["splits"].items()} == {
        "train": {8},
        "val": {8},
        "test": {15},
    }
    assert (data.batch("train", torch.arange(8)).label == 0).all()


def test_the_remainder_of_an_odd_width_is_covered_by_a_tile_aligned_with_the_end(make, root):
    tiles = tiles_of(make(root), "Defect_images/0006_019_01.png")
    assert len(tiles.pixels) == 15
    expected = torch.from_numpy(fabric(106, 244)[:, -SIZE:].copy())
    assert torch.equal(tiles.pixels[-1, 0], expected)
    assert tiles.label.tolist() == [0] * 14 + [1]


def test_a_defect_labels_every_tile_that_contains_it(make, root):
    tiles = tiles_of(make(root), "Defect_images/0001_019_01.png")
    assert tiles.label.nonzero().flatten().tolist() == [1, 2]
    assert tiles.mask.sum((1, 2, 3)).tolist() == [0, 16, 16] + [0] * 12
    assert tiles.mask[1, 0, 10:14, 24:28].min() == 1
    assert tiles.fabric.unique().tolist() == [1]
    assert tiles.defect.unique().tolist() == [19]


def test_two_masks_of_a_strip_are_merged(make, root):
    tiles = tiles_of(make(root), "Defect_images/0002_019_04.png")
    assert tiles.label.nonzero().flatten().tolist() == [0, 11, 12]


def test_a_missing_or_empty_mask_is_unknown_and_not_defect_free(make, root):
    for name in ("0005_019_08", "0003_019_01"):
        tiles = tiles_of(make(root), f"Defect_images/{name}.png")
        assert (tiles.label == -1).all()
        assert (tiles.mask == 255).all()


def test_a_smoothed_mask_is_thresholded_at_half(make, root):
    tiles = tiles_of(make(root), "Defect_images/0004_019_01.png")
    assert tiles.mask[6].sum() == 16  # of the 24 pixels that are not black
    assert tiles.mask.unique().tolist() == [0, 1]


@pytest.mark.parametrize("left", [0, 70, 101])
def test_white_padding_is_left_out(left):
    strip = np.concatenate([np.full((HEIGHT, left), 255, np.uint8), fabric(0, WIDTH - left)], 1)
    assert fabric_start(torch.from_numpy(strip)[None]) == left


@pytest.mark.parametrize("level", [60, 120, 190])
def test_the_background_of_the_machine_is_left_out(level):
    strip = np.concatenate([background(0, 100, level), fabric(0, WIDTH - 100)], 1)
    assert abs(fabric_start(torch.from_numpy(strip)[None]) - 100) <= 3


def test_a_strip_without_fabric_has_no_tiles(make, root):
    save(root / "Defect_images" / "0009_019_01.png", np.full((HEIGHT, WIDTH), 255, np.uint8))
    data = make(root)
    assert data.manifest()["left_out"] == {NO_FABRIC: 8}
    assert "Defect_images/0009_019_01.png" not in data.manifest()["splits"]["test"]


def test_tiles_start_with_the_fabric_and_tiles_without_fabric_are_counted(make, root):
    padded = np.concatenate([np.full((HEIGHT, 70), 255, np.uint8), fabric(0, WIDTH - 70)], 1)
    save(root / "Defect_images" / "0009_019_01.png", padded)
    data = make(root)
    tiles = tiles_of(data, "Defect_images/0009_019_01.png")
    assert torch.equal(tiles.pixels[0, 0], torch.from_numpy(padded[:, 70 : 70 + SIZE].copy()))
    assert not (tiles.pixels == 255).any()
    assert data.manifest()["left_out"] == {NO_FABRIC: 2}


def test_file_names_encode_fabric_and_defect(tmp_path):
    assert strip_of(tmp_path / "0018_00_01.png") == (1, 0)
    assert strip_of(tmp_path / "0100_025_08.png") == (8, 25)
    with pytest.raises(UserError, match="strip.png: expected a name like 0001_000_05.png"):
        strip_of(tmp_path / "strip.png")


def test_a_changed_mask_is_read_again(make, root):
    make(root)
    save(root / "Mask_images" / "0001_019_01_mask.png", spot(100))
    assert tiles_of(make(root), "Defect_images/0001_019_01.png").label.nonzero().flatten().tolist() == [5, 6]


@pytest.mark.parametrize("name", ["0001_019_1_mask.png", "0001_019_01.png", "0099_019_01_mask.png"])
def test_a_mask_without_a_strip_is_rejected(make, root, name):
    save(root / "Mask_images" / name, spot(40))
    with pytest.raises(UserError, match=f"{name}: a mask of no strip in Defect_images"):
        make(root)


def test_a_mask_can_have_another_file_format(make, root):
    mask = root / "Mask_images" / "0001_019_01_mask.png"
    Image.open(mask).save(mask.with_suffix(".BMP"), "BMP")
    mask.unlink()
    assert tiles_of(make(root), "Defect_images/0001_019_01.png").label.nonzero().flatten().tolist() == [1, 2]


def test_errors_are_reported(make, root, tmp_path):
    with pytest.raises(UserError, match="no folder NODefect_images in it; expected the original layout"):
        make(tmp_path)
    with pytest.raises(UserError, match=r"data.test_steps=5: expected a divisor of data.image_size=32"):
        make(root, test_steps=5)
    with pytest.raises(UserError, match="5 normal strips of fabric 01 cannot be split so"):
        make(root, val_fraction=0.6, test_fraction=0.5)
    with pytest.raises(
        UserError, match="data.image_size=64: no image has so many rows and columns; expected at most 32"
    ):
        make(root, image_size=64)
    save(root / "Mask_images" / "0001_019_01_mask.png", spot(40, width=200))
    with pytest.raises(
        UserError, match=r"0001_019_01_mask.png: the mask is 200x32 pixels, its image 256x32; expected one"
    ):
        make(root)
    data = make(root, on_error="skip")
    assert list(data.manifest()["skipped"]) == ["Defect_images/0001_019_01.png"]


def test_the_real_strips_with_all_their_quirks(make):
    data = make(real_data("aitex"), image_size=256, val_fraction=0.1, test_fraction=0.25)
    splits = data.manifest()["splits"]
    assert sum(map(len, splits.values())) == 160
    assert [len(splits[split]) for split in ("train", "val", "test")] == [57, 7, 96]
    for split in ("train", "val"):
        batch = data.splits[split].take(torch.arange(data.num_images(split)))
        assert (batch.label == 0).all()
        assert batch.fabric.unique().tolist() == list(range(7))
        # A tile of fabric is neither flat nor padded.
        assert batch.pixels.float().flatten(1).std(1).min() > 4
        assert (batch.pixels == 255).flatten(1).float().mean(1).max() < 0.2
    for name, unknown in (("0100_025_08", True), ("0106_010_03", True), ("0044_019_04", False)):
        labels = tiles_of(data, f"Defect_images/{name}.png").label
        assert bool((labels == -1).all()) == unknown
    assert len(tiles_of(data, "Defect_images/0094_027_05.png").pixels) == 29


def test_training_sees_random_squares_of_its_tiles(make, root):
    data = make(root, crop=16)
    whole = data.batch("train", torch.arange(6))._replace(rng=GlobalRandom())
    cropped = data.augmented(whole)
    assert cropped.input.shape == cropped.target.shape == (6, 1, 16, 16)
    assert not torch.equal(cropped.target, data.augmented(whole).target)
    assert data.batch("val", torch.arange(2)).input.shape[-1] == SIZE
    assert torch.equal(make(root).augmented(whole).target, whole.target)
    with pytest.raises(UserError, match="data.crop=64: expected at most data.image_size=32"):
        make(root, crop=64)
