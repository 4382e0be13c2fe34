from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from saaae.data.corruption import Speckle
from saaae.data.folder import NOT_FINITE, TOO_SMALL, FolderData
from saaae.errors import UserError
from tests.conftest import SERVING, real_data


@pytest.fixture
def make(tmp_path):
    def made(root, setup=True, **options):
        defaults = {
            "test_root": None, "labels": None, "group_pattern": None, "split_by": "file", "fit": "tiles",
            "val_fraction": 0.2, "test_fraction": 0.2, "on_error": "raise", "allow_duplicates": False,
            "cache_dir": str(tmp_path / "cache"), "image_size": 16, "channels": 1, **SERVING,
        }  # fmt: skip
        data = FolderData(root=str(root), **{**defaults, **options})
        if setup:
            data.setup()
        return data

    return made


@pytest.fixture
def folder(tmp_path):
    """Ten images of 40x33 pixels, 2x2 tiles each, in two subfolders; the gray level of an image is its number."""
    root = tmp_path / "images"
    for i in range(10):
        path = root / "ab"[i % 2] / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((33, 40), 10 * i, np.uint8)).save(path)
    return root


def levels(data, split):
    images = data.splits[split]
    return set(images.take(torch.arange(images.size)).pixels.unique().tolist())


def sizes(data):
    return {split: images.size for split, images in data.splits.items()}


def test_every_image_is_in_one_split_and_nothing_is_written_beside_it(make, folder):
    before = sorted(folder.rglob("*"))
    data = make(folder)
    assert sizes(data) == {"train": 24, "val": 8, "test": 8}
    parts = [levels(data, split) for split in ("train", "val", "test")]
    assert set.union(*parts) == {10 * i for i in range(10)}
    assert sum(map(len, parts)) == 10
    assert sorted(folder.rglob("*")) == before


def test_the_second_run_reads_the_cache_and_a_changed_file_is_decoded_again(make, folder, monkeypatch):
    first = make(folder)
    opened = []
    real = Image.open
    monkeypatch.setattr(Image, "open", lambda path: opened.append(path) or real(path))
    assert make(folder, seed=1).split_hash() != first.split_hash()
    assert opened == []
    Image.fromarray(np.full((33, 40), 200, np.uint8)).save(folder / "a" / "00.png")
    changed = make(folder)
    assert len(opened) == 10
    assert changed.split_hash() != first.split_hash()
    assert 200 in set.union(*(levels(changed, split) for split in changed.splits))


def test_the_split_hash_depends_only_on_names_content_and_seed(make, folder, tmp_path):
    import shutil

    shutil.copytree(folder, tmp_path / "moved")
    assert make(folder).split_hash() == make(tmp_path / "moved").split_hash()
    assert make(folder).split_hash() == make(folder, batch_size=7).split_hash()


def test_groups_stay_together(make, folder):
    data = make(folder, group_pattern="^(..)0?", val_fraction=0.1, test_fraction=0.1)
    assert sizes(data) == {"train": 32, "val": 4, "test": 4}
    for i in range(10):  # now two images per group
        (folder / "ab"[i % 2] / f"{i:02d}.png").rename(folder / f"{i // 2}_{i}.png")
    data = make(folder, group_pattern=r"^(\d)_")
    for split in data.splits:
        assert {level // 20 for level in levels(data, split)} <= {
            level // 20 for level in levels(data, split) if level % 20
        }


def test_regions_split_every_image_without_overlap(make, tmp_path):
    (tmp_path / "one").mkdir()
    ramp = np.repeat(np.arange(160, dtype=np.uint8)[None], 32, 0)
    Image.fromarray(ramp).save(tmp_path / "one" / "scene.png")
    data = make(tmp_path / "one", split_by="region")
    assert levels(data, "train") == set(range(96))
    assert levels(data, "val") == set(range(96, 128))
    assert levels(data, "test") == set(range(128, 160))
    assert data.manifest()["splits"] == {
        split: {"scene.png": n} for split, n in (("train", 12), ("val", 4), ("test", 4))
    }


def test_test_images_can_have_their_own_folder(make, folder):
    data = make(folder, test_root=str(folder / "b"))
    assert levels(data, "test") == {10, 30, 50, 70, 90}
    assert sizes(data) == {"train": 16, "val": 4, "test": 20}


@pytest.mark.parametrize("kind", ["inside", "link", "apart"])
def test_images_of_the_test_folder_are_not_used_for_training(make, folder, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    test_root = {"inside": "images/b", "link": "link", "apart": "apart"}[kind]
    if kind == "link":
        (tmp_path / "link").symlink_to(folder / "b")
    if kind == "apart":
        (folder / "b").rename(tmp_path / "apart")
        (folder / "test").mkdir()  # this name has no special meaning
        (folder / "a" / "00.png").rename(folder / "test" / "01.png")
    data = make("images", test_root=test_root)
    assert levels(data, "test") == {10, 30, 50, 70, 90}
    assert levels(data, "train") | levels(data, "val") == {0, 20, 40, 60, 80}


def test_a_folder_inside_its_test_folder_is_refused(make, folder):
    with pytest.raises(UserError, match="no image in it but those in"):
        make(folder / "a", test_root=str(folder))


def test_images_of_any_size_are_cropped_to_their_central_square(make, tmp_path):
    root = tmp_path / "sizes"
    root.mkdir()
    for i, (height, width) in enumerate([(20, 40), (64, 64), (9, 7), (100, 33), (16, 16)]):
        Image.fromarray(np.full((height, width, 3), (10 * i, 100, 200), np.uint8)).save(root / f"{i}.png")
    data = make(root, fit="resize", channels=3)
    batch = data.batch("train", torch.arange(3))
    assert batch.input.shape == (3, 3, 16, 16)
    assert torch.allclose(batch.input[:, 2], torch.tensor(200 / 255))


def test_images_smaller_than_a_tile_are_left_out_and_counted(make, folder):
    Image.fromarray(np.zeros((15, 90), np.uint8)).save(folder / "small.png")
    data = make(folder)
    assert sum(sizes(data).values()) == 40
    assert data.manifest()["left_out"] == {TOO_SMALL: 1}
    with pytest.raises(
        UserError, match=f"data.image_size=64: no image has so many .* 11 {TOO_SMALL}; expected at most 32"
    ):
        make(folder, image_size=64)


def test_a_broken_file_stops_the_run_or_is_skipped_and_reported(make, folder):
    (folder / "a" / "text.png").write_text("no image")
    with pytest.raises(UserError, match=r"a/text.png: not a readable image .*; or leave .* data.on_error=skip"):
        make(folder)
    for _ in range(2):  # the second time from the cache
        data = make(folder, on_error="skip")
        assert sum(sizes(data).values()) == 40
        assert list(data.manifest()["skipped"]) == ["a/text.png"]
        assert "not a readable image" in data.manifest()["skipped"]["a/text.png"]


def test_a_file_without_read_permission_is_reported(make, folder, monkeypatch):
    real = Path.read_bytes

    def read_bytes(path):
        if path.name == "00.png":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    with pytest.raises(UserError, match=r"a/00.png: cannot be read \(Permission denied\)"):
        make(folder)
    assert list(make(folder, on_error="skip").manifest()["skipped"]) == ["a/00.png"]


def test_a_folder_of_only_broken_files_is_rejected_even_if_they_are_skipped(make, tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_text("no image")
    with pytest.raises(UserError, match="no file of 1 can be used.*not a readable image"):
        make(tmp_path / "broken", on_error="skip")


def test_a_file_that_changes_while_it_is_read_is_not_cached(make, folder, monkeypatch):
    from saaae.data import folder as module

    real = module.read_levels

    def read_levels(path, channels):
        image = real(path, channels)
        Image.fromarray(np.full((33, 40), 77, np.uint8)).save(path)
        return image

    monkeypatch.setattr(module, "read_levels", read_levels)
    with pytest.raises(UserError, match="changed while it was being read; start again"):
        make(folder)
    monkeypatch.setattr(module, "read_levels", real)
    data = make(folder, allow_duplicates=True)  # now all files are identical
    assert set.union(*(levels(data, split) for split in data.splits)) == {77}


def test_an_optional_group_without_a_match_does_not_group_files(make, folder):
    assert sizes(make(folder, group_pattern="^(00)?")) == {"train": 24, "val": 8, "test": 8}
    with pytest.raises(UserError, match=r"data.group_pattern=\^\(x\)\?: its group matches in none of 10 file names"):
        make(folder, group_pattern="^(x)?")


def test_pipes_are_not_read_and_a_dangling_link_is_reported(make, folder):
    import os

    os.mkfifo(folder / "pipe.png")
    assert sizes(make(folder)) == {"train": 24, "val": 8, "test": 8}
    (folder / "link.png").symlink_to("nowhere.png")
    with pytest.raises(UserError, match="link.png: cannot be read"):
        make(folder)


def test_an_empty_test_folder_is_reported_with_its_key(make, folder, tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match=r"data.test_root=.*none: no image in it"):
        make(folder, test_root=str(tmp_path / "none"))


def test_a_skipped_file_is_reported_with_its_relative_path_after_a_move(make, folder, tmp_path):
    (folder / "a" / "text.png").write_text("no image")
    make(folder, on_error="skip")
    folder.rename(tmp_path / "moved")
    reason = make(tmp_path / "moved", on_error="skip").manifest()["skipped"]["a/text.png"]
    assert reason.startswith("a/text.png: not a readable image")


def test_the_split_hash_includes_settings_and_content(make, folder):
    hashes = {make(folder, fit=fit, image_size=size).split_hash() for fit in ("tiles", "resize") for size in (8, 16)}
    assert len(hashes) == 4


def test_errors_in_the_settings_are_reported(make, folder):
    with pytest.raises(UserError, match="cannot be split so; expected more of them"):
        make(folder, val_fraction=0.5, test_fraction=0.5)
    with pytest.raises(UserError, match="group_pattern.*not a regular expression"):
        make(folder, setup=False, group_pattern="(")
    with pytest.raises(UserError, match="group_pattern.*expected a group"):
        make(folder, setup=False, group_pattern="scene")


def test_simulated_speckle_is_applied_to_clean_images(make, folder):
    data = make(folder, corruption=Speckle(looks=1, correlation=0.0))
    batch = data.batch("test", torch.arange(8))
    assert not torch.equal(batch.input, batch.target)
    assert batch.target.flatten(1).std(1).max() < 1e-6


def test_tiles_with_nan_pixels_are_left_out(make, folder):
    image = torch.zeros(1, 32, 32)
    image[0, 3, 20] = torch.nan
    pieces = make(folder).pieces(image)
    assert len(pieces.arrays["pixels"]) == 3
    assert pieces.left_out[NOT_FINITE] == 1


@pytest.mark.parametrize(("name", "tiles"), [("set12", 7 * 16 + 5 * 64), ("bsd68", 68 * 35), ("bsd400", 400 * 4)])
def test_the_real_clean_sets_are_cut_into_tiles(make, name, tiles):
    assert sum(sizes(make(real_data("clean", name), image_size=64)).values()) == tiles


@pytest.mark.parametrize("split_by", ["file", "region"])
def test_identical_images_in_training_and_test_are_rejected_unless_allowed(make, folder, split_by):
    for path in folder.rglob("*.png"):
        Image.fromarray(np.full((64, 64), 9, np.uint8)).save(path)
    with pytest.raises(
        UserError, match=r"data: equal images in train and test: 1 \(for instance a/00.png and .*data.allow"
    ):
        make(folder, split_by=split_by)
    warnings = make(folder, split_by=split_by, allow_duplicates=True).manifest()["warnings"]
    assert sum(line.startswith("equal images in ") for line in warnings) == 3


def test_a_test_folder_that_contains_the_training_images_is_rejected(make, folder, tmp_path):
    import shutil

    shutil.copytree(folder, tmp_path / "copy")
    with pytest.raises(UserError, match="equal images in train and test: [89] "):
        make(folder, test_root=str(tmp_path / "copy"))


def test_identical_images_in_training_and_validation_give_a_warning(make, folder):
    first = make(folder)
    train, val = (sorted(first.manifest()["splits"][split])[0] for split in ("train", "val"))
    (folder / val).write_bytes((folder / train).read_bytes())
    data = make(folder)
    assert data.manifest()["warnings"][-1:] == [f"equal images in train and val: 1 (for instance {train} and {val})"]
    assert data.split_hash() == make(folder, allow_duplicates=True).split_hash()


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_files_keep_their_levels(make, tmp_path, channels):
    import tifffile

    (tmp_path / "deep").mkdir()
    rng = np.random.default_rng(0)
    for i in range(5):
        pixels = rng.integers(0, 65536, (16, 16, 3) if channels == 3 else (16, 16)).astype(np.uint16)
        tifffile.imwrite(tmp_path / "deep" / f"{i}.tif", pixels)
    data = make(tmp_path / "deep", channels=channels)
    train = data.splits["train"].take(torch.arange(3)).pixels
    assert train.dtype == torch.float32
    assert len(train.unique()) > 3 * 16 * 16 * channels * 0.95
    assert 0.99 < float(train.max()) <= 1.0
    assert data.manifest()["warnings"] == []


def test_scales_that_make_tiles_constant_clipped_or_dark_are_reported(make, tmp_path):
    import tifffile

    rng = np.random.default_rng(0)
    for name, high in (("dark", 4096), ("white", 2), ("flat", 1)):
        (tmp_path / name).mkdir()
        for i in range(5):
            pixels = rng.integers(0, high, (16, 16)).astype(np.uint16) + 60000 * (name == "flat") * (i + 1) // 6
            pixels = np.where(rng.random((16, 16)) < 0.9, 65535, pixels) if name == "white" else pixels
            tifffile.imwrite(tmp_path / name / f"{i}.tif", pixels.astype(np.uint16))
    warnings = {name: make(tmp_path / name).manifest()["warnings"] for name in ("dark", "white", "flat")}
    assert warnings["dark"] == [
        "100% of the tiles stay below 0.125: data.full_scale may be too large; data=folder takes 65535 as 1.0, "
        "data=sar data.full_scale=<value> another"
    ]
    assert warnings["white"][0].startswith("100% of the tiles have most of their pixels at 1.0")
    assert warnings["flat"][0].startswith("100% of the tiles are constant")


def test_unsupported_images_are_counted_and_hidden_files_are_ignored(make, folder):
    for name in ("x.gif", "a/y.GIF", "z.heic"):
        (folder / name).write_bytes(b"not read")
    (folder / "a" / "._00.png").write_bytes(b"made by macOS")
    left_out = make(folder).manifest()["left_out"]
    kinds = {".gif files, a kind of image that is not read": 2, ".heic files, a kind of image that is not read": 1}
    assert left_out == kinds


def test_decoding_many_files_logs_a_message(make, folder, monkeypatch, capsys):
    from saaae.data import cached_files as module

    make(folder)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(module, "MANY_FILES", 9)
    make(folder, image_size=12)
    assert capsys.readouterr().out == "decoding 10 files\n"
    make(folder, image_size=12)
    assert capsys.readouterr().out == ""
