import math

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from saaae.data.files import read_array
from saaae.data.folder import NOT_FINITE
from saaae.data.sar import SARData, sar_image, to_amplitude
from saaae.errors import UserError
from tests.conftest import SERVING, real_data


def read_sar(path, scale, full_scale):
    return sar_image(path, read_array(path), scale, full_scale)


@pytest.fixture
def make(tmp_path):
    def made(root, setup=True, **options):
        defaults = {
            "reference_root": None, "target": "noisy", "scale": "amplitude", "full_scale": None, "enl_windows": None,
            "scene_pattern": r"^(scene\d+)_", "split_by": "file", "val_fraction": 0.2, "test_fraction": 0.2,
            "on_error": "raise", "allow_duplicates": False,
            "cache_dir": str(tmp_path / "cache"), "image_size": 16, "channels": 1, **SERVING,
        }  # fmt: skip
        data = SARData(root=str(root), **{**defaults, **options})
        if setup:
            data.setup()
        return data

    return made


@pytest.fixture
def scenes(tmp_path):
    """Six scenes of two adjacent images each; the gray level of an image is the number of its scene."""
    root = tmp_path / "scenes"
    root.mkdir()
    for scene in range(6):
        for tile in range(2):
            mode = "RGB" if scene == 3 else "L"
            pixels = np.full((33, 48), 10 * scene, np.uint8)
            Image.fromarray(pixels).convert(mode).save(root / f"scene{scene:02d}_tile{tile}_000.png")
    return root


def whole(data, split):
    return data.splits[split].take(torch.arange(data.splits[split].size))


def test_no_scene_is_in_two_splits(make, scenes):
    data = make(scenes)
    levels = {split: set(whole(data, split).pixels.unique().tolist()) for split in data.splits}
    assert not levels["train"] & levels["val"] | levels["train"] & levels["test"] | levels["val"] & levels["test"]
    assert set.union(*levels.values()) == {0, 10, 20, 30, 40, 50}
    assert sum(images.size for images in data.splits.values()) == 6 * 2 * 6


def test_intensity_amplitude_and_decibel_of_one_scene_are_one_image():
    amplitude = np.array([0.0, 0.1, 0.5, 1.0, 3.0])
    expected = np.minimum(amplitude / 2, 1).astype(np.float32)
    with np.errstate(divide="ignore"):
        decibel = 20 * np.log10(amplitude)
    np.testing.assert_allclose(to_amplitude(amplitude, "amplitude", 2.0), expected, rtol=1e-6)
    np.testing.assert_allclose(to_amplitude(amplitude**2, "intensity", 4.0), expected, rtol=1e-6)
    np.testing.assert_allclose(to_amplitude(decibel, "decibel", 20 * math.log10(2)), expected, rtol=1e-6)


def test_nan_stays_nan_and_negative_noise_becomes_zero():
    values = np.array([-1.0, np.nan, np.inf, -np.inf])
    for scale in ("amplitude", "intensity"):
        found = to_amplitude(values, scale, 1.0)
        assert found[0] == 0
        assert np.isnan(found[1:]).all()
    assert np.isnan(to_amplitude(values, "decibel", 0.0)).tolist() == [False, True, True, False]


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.npy"])
def test_sixteen_bits_are_scaled_by_their_largest_value(tmp_path, name):
    pixels = np.array([[0, 65535], [257, 32768]], np.uint16)
    np.save(tmp_path / name, pixels) if name.endswith("npy") else Image.fromarray(pixels).save(tmp_path / name)
    x = read_sar(tmp_path / name, "amplitude", None)
    assert x.dtype == torch.float32
    torch.testing.assert_close(x[0], torch.tensor([[0, 1], [257 / 65535, 32768 / 65535]]))
    assert read_sar(tmp_path / name, "amplitude", 257.0)[0].tolist() == [[0, 1], [1, 1]]


def test_eight_bit_amplitudes_stay_bytes(tmp_path):
    Image.fromarray(np.full((2, 2), 51, np.uint8)).save(tmp_path / "a.png")
    assert read_sar(tmp_path / "a.png", "amplitude", None).dtype == torch.uint8
    torch.testing.assert_close(read_sar(tmp_path / "a.png", "amplitude", 102.0), torch.full((1, 2, 2), 0.5))
    torch.testing.assert_close(read_sar(tmp_path / "a.png", "intensity", None), torch.full((1, 2, 2), 0.2).sqrt())


def test_floats_need_a_full_scale(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.linspace(0, 10, 10_000, dtype=np.float32).reshape(100, 100))
    with pytest.raises(UserError, match=r"data.full_scale=null: .*a.tif holds float32 pixels.*99 % .* are below 9.9"):
        read_sar(tmp_path / "a.tif", "intensity", None)
    assert read_sar(tmp_path / "a.tif", "intensity", 2.5).max() == 1
    with pytest.raises(UserError, match=r"data.full_scale=null: .*\(decibel\)"):
        read_sar(tmp_path / "a.tif", "decibel", None)


@pytest.mark.parametrize("kind", [np.int16, np.uint32])
def test_other_integers_need_a_full_scale(tmp_path, kind):
    tifffile.imwrite(tmp_path / "a.tif", np.full((4, 4), 20_000, kind))
    with pytest.raises(UserError, match=f"data.full_scale=null: .*{np.dtype(kind)} pixels"):
        read_sar(tmp_path / "a.tif", "amplitude", None)
    torch.testing.assert_close(read_sar(tmp_path / "a.tif", "amplitude", 40_000.0), torch.full((1, 4, 4), 0.5))


def test_equal_channels_with_missing_pixels_are_merged(tmp_path):
    pixels = np.full((4, 4, 3), 0.5, np.float32)
    pixels[0, 0] = np.nan
    np.save(tmp_path / "a.npy", pixels)
    assert read_sar(tmp_path / "a.npy", "amplitude", 1.0).isnan().sum() == 1


@pytest.mark.parametrize("scale", ["amplitude", "intensity"])
def test_negative_pixels_suggest_decibels(tmp_path, scale):
    np.save(tmp_path / "a.npy", np.full((4, 4), -20.0, np.float32))
    with pytest.raises(UserError, match=f"data.scale={scale}: most pixels .* did you mean data.scale=decibel"):
        read_sar(tmp_path / "a.npy", scale, 1.0)


def test_colour_images_are_rejected(tmp_path):
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[0, 0, 1] = 1
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="a.png: a colour image; expected one channel, or equal ones"):
        read_sar(tmp_path / "a.png", "amplitude", None)


def test_tiles_with_missing_pixels_are_left_out_and_counted(make, tmp_path):
    (tmp_path / "gaps").mkdir()
    for i in range(5):
        pixels = np.full((32, 32), 0.5 + i / 100, np.float32)
        if i == 4:
            pixels[:5, :5] = np.nan
        np.save(tmp_path / "gaps" / f"{i}.npy", pixels)
    data = make(tmp_path / "gaps", full_scale=1.0, scene_pattern=None)
    assert sum(images.size for images in data.splits.values()) == 5 * 4 - 1
    assert data.manifest()["left_out"] == {NOT_FINITE: 1}
    assert len(data.batch("train", torch.arange(4)).input.unique()) == 1


@pytest.mark.parametrize("full_scale", [255.0, 5.0])
def test_a_folder_with_two_pixel_types_is_rejected(make, scenes, full_scale):
    np.save(scenes / "scene09_tile0.npy", np.full((32, 32), 0.5, np.float32))
    with pytest.raises(UserError, match="scene09_tile0.npy: float32 pixels, those of the files before uint8; expected"):
        make(scenes, scale="amplitude", full_scale=255.0)


@pytest.fixture
def pairs(tmp_path):
    """Noisy images of five scenes, and references that are 100 gray levels brighter."""
    for i in range(5):
        for folder, extra in (("noisy", 0), ("clean", 100)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(np.full((32, 32), 10 * i + extra, np.uint8)).save(tmp_path / folder / f"{i}.png")
    return tmp_path


def test_a_reference_is_stored_with_the_noisy_image_or_is_the_target(make, pairs):
    noisy, clean, second = (
        make(pairs / "noisy", reference_root=str(pairs / "clean"), target=target, scene_pattern=None).batch(
            "train", torch.arange(8)
        )
        for target in ("noisy", "clean", "second")
    )
    for batch in (noisy, clean):
        torch.testing.assert_close(batch.clean - batch.input, torch.full_like(batch.input, 100 / 255))
    assert noisy.target is noisy.input
    assert clean.target is clean.clean
    assert second.clean is None
    assert torch.equal(second.target, clean.target)


def test_references_can_be_in_a_subfolder_of_their_images(make, pairs):
    (pairs / "clean").rename(pairs / "noisy" / "clean")
    data = make(pairs / "noisy", reference_root=str(pairs / "noisy" / "clean"), scene_pattern=None)
    assert sum(images.size for images in data.splits.values()) == 5 * 4


def test_errors_in_references_are_reported(make, pairs):
    with pytest.raises(UserError, match="data.target=clean: needs the other images of data.reference_root"):
        make(pairs / "noisy", target="clean")
    Image.fromarray(np.zeros((32, 40), np.uint8)).save(pairs / "clean" / "3.png")
    with pytest.raises(UserError, match="3.png: the image and its reference are 32x32 and 40x32 pixels"):
        make(pairs / "noisy", reference_root=str(pairs / "clean"))
    (pairs / "clean" / "3.png").unlink()
    with pytest.raises(UserError, match=r"clean/3.png: no such file; data.reference_root must hold"):
        make(pairs / "noisy", reference_root=str(pairs / "clean"))
    data = make(pairs / "noisy", reference_root=str(pairs / "clean"), on_error="skip", scene_pattern=None)
    assert list(data.manifest()["skipped"]) == ["3.png"]


def test_errors_in_the_settings_are_reported(make, scenes):
    with pytest.raises(UserError, match=r"data.image_size=64: no image has so many .* expected at most 32"):
        make(scenes, image_size=64)
    with pytest.raises(UserError, match=r"data.scene_pattern=\^\(x\): its group matches in none of 12 file names"):
        make(scenes, scene_pattern="^(x)")
    with pytest.raises(UserError, match="cannot be split so"):
        make(scenes, val_fraction=0.5, test_fraction=0.5)
    with pytest.raises(UserError, match=r"data.scene_pattern=\(: not a regular expression"):
        make(scenes, scene_pattern="(")
    with pytest.raises(UserError, match="data.full_scale=-1.0: expected greater than 0"):
        make(scenes, full_scale=-1.0)


@pytest.mark.parametrize("content", [b"", b"this is text", b"\x89PNG\r\n\x1a\n truncated"])
def test_a_broken_image_is_reported(make, scenes, content):
    (scenes / "scene01_tile0_000.png").write_bytes(content)
    with pytest.raises(UserError, match="scene01_tile0_000.png: not a readable image"):
        make(scenes)


def test_the_real_scenes_give_leak_free_tiles(make):
    data = make(real_data("sar", "mstar", "scenes"), image_size=128)
    assert sum(images.size for images in data.splits.values()) == 58 * 12
    scenes = [{name[:7] for name in data.manifest()["splits"][split]} for split in data.splits]
    assert not scenes[0] & scenes[1] | scenes[0] & scenes[2] | scenes[1] & scenes[2]


def test_the_real_sentinel_intensities_are_split_by_region(make):
    options = {"scale": "intensity", "full_scale": 0.5, "split_by": "region", "image_size": 64}
    data = make(real_data("sar", "sentinel1"), **options)
    assert {split: images.size for split, images in data.splits.items()} == {"train": 70, "val": 14, "test": 14}
    x = data.batch("train", torch.arange(70)).input
    assert 0 < x.min() <= x.max() <= 1


def test_the_real_pairs_are_read_with_their_references(make):
    root = real_data("sar", "despeckling_pairs")
    data = make(
        root / "noisy", reference_root=str(root / "denoised"), target="clean", image_size=64, scene_pattern=None
    )
    batch = data.batch("train", torch.arange(16))
    assert batch.target.flatten(1).std() < batch.input.flatten(1).std()


def test_a_user_defined_window_is_cut_into_the_tiles_that_it_covers(make, scenes):
    name = "scene02_tile0_000.png"  # a test image
    data = make(scenes, enl_windows={name: [4, 8, 20, 24]})  # rows 4 to 24, columns 8 to 32; tiles of 16 pixels
    found = [row for split in data.splits for row in whole(data, split).window.tolist() if row[2]]
    assert sorted(found) == [[0, 0, 8, 16], [0, 8, 8, 8], [4, 0, 12, 16], [4, 8, 12, 8]]
    assert data.batch("test", torch.arange(3)).window.shape == (3, 4)
    narrow = make(scenes, enl_windows={name: [0, 10, 16, 15]})  # its 6 columns in the first tile are too few
    assert [row for split in narrow.splits for row in whole(narrow, split).window.tolist() if row[2]] == [[0, 0, 16, 9]]


@pytest.mark.parametrize(
    ("windows", "answer"),
    [
        ({"scene00_tile0_00.png": [0, 0, 9, 9]}, "no file scene00_tile0_00.png; did you mean scene00_tile0_000.png"),
        ({"scene00_tile0_000.png": [0, 0, 9]}, r"\[0, 0, 9\]; expected top, left, height and width"),
        ({"scene00_tile0_000.png": [0, 0, 7, 40]}, "covers 8 x 8 pixels of no tile"),
        ({"scene00_tile0_000.png": [90, 90, 9, 9]}, "covers 8 x 8 pixels of no tile"),
        (
            {"scene00_tile0_000.png": [0, 0, 9, 9]},
            "no window lies in a test image; these are scene02_tile0_000.png, ",
        ),
    ],
)
def test_an_invalid_window_is_reported(make, scenes, windows, answer):
    with pytest.raises(UserError, match=answer):
        make(scenes, enl_windows=windows)
