import struct
import zlib

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from saaae.data.files import read_array, read_image, split_groups
from saaae.data.listing import list_images
from saaae.errors import UserError

RAMP = np.arange(12 * 20, dtype=np.uint8).reshape(12, 20)


def save(path, pixels, **options):
    if path.suffix == ".npy":
        np.save(path, pixels)
    elif options.pop("tifffile", False):
        tifffile.imwrite(path, pixels, **options)
    else:
        Image.fromarray(pixels).save(path, **options)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.tiff", "a.npy", "a.PNG"])
def test_8_bit_files_are_unchanged(tmp_path, name):
    assert (read_array(save(tmp_path / name, RAMP)) == RAMP).all()


def test_jpeg_is_read(tmp_path):
    assert (
        np.abs(read_array(save(tmp_path / "a.jpg", RAMP // 2 + 60, quality=95)).astype(int) - RAMP // 2 - 60).max() < 40
    )


def test_webp_is_read_unless_it_is_an_animation(tmp_path):
    assert (read_array(save(tmp_path / "a.webp", np.stack([RAMP] * 3, -1), lossless=True)) == RAMP[..., None]).all()
    assert list_images(tmp_path) == [tmp_path / "a.webp"]
    frames = [Image.fromarray(np.full((9, 9, 3), level, np.uint8)) for level in (0, 99)]
    frames[0].save(tmp_path / "b.webp", save_all=True, append_images=frames[1:])
    with pytest.raises(UserError, match=r"b.webp: not a readable image \(2 images in one file\)"):
        read_array(tmp_path / "b.webp")


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.npy"])
def test_16_bit_files_keep_all_bits(tmp_path, name):
    wide = RAMP.astype(np.uint16) * 257
    found = read_array(save(tmp_path / name, wide))
    assert found.dtype == np.uint16
    assert (found == wide).all()
    assert (read_image(tmp_path / name, 1)[0].numpy() == RAMP).all()


def test_16_bit_colour_is_rejected_if_it_would_be_read_as_8_bit(tmp_path):
    header = b"\0\0\0\x02\0\0\0\x01\x10\x02\0\0\0"  # 2x1 pixels, 16 bits, RGB
    rows = b"\0" + bytes(range(12))

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(png)
    with pytest.raises(UserError, match="16 bits in several channels"):
        read_array(tmp_path / "a.png")


def test_big_endian_samples_are_byte_swapped(tmp_path):
    wide = (RAMP.astype(np.uint16) * 257).astype(">u2")
    assert (read_array(save(tmp_path / "a.npy", wide)) == wide).all()
    assert read_array(tmp_path / "a.npy").dtype == np.dtype("uint16")


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("layout", ["gray", "contig", "separate"])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int16, np.uint32, np.float16, np.float32, np.float64])
def test_every_tiff_variant_is_read(tmp_path, kind, layout, compression):
    pixels = (RAMP.astype(np.float64) * 11 + (0.5 if np.dtype(kind).kind == "f" else 0)) % np.minimum(
        np.float64(250 if kind is np.uint8 else 2000), 2000
    )
    pixels = pixels.astype(kind)
    options = {"photometric": "minisblack"}
    if layout != "gray":
        options = {"photometric": "rgb", "planarconfig": layout}
        pixels = np.stack([pixels, pixels, pixels], -1 if layout == "contig" else 0)
    path = save(tmp_path / "a.tif", pixels, tifffile=True, compression=compression, **options)
    found = read_array(path)
    assert found.dtype == kind
    assert (found == (pixels.transpose(1, 2, 0) if layout == "separate" else pixels)).all()


def test_several_pages_are_rejected_but_thumbnails_are_not_pages(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(RAMP)
        file.write(RAMP[::2, ::2], subfiletype=1)
    assert (read_array(tmp_path / "a.tif") == RAMP).all()
    save(tmp_path / "b.tif", np.stack([RAMP] * 5), tifffile=True, photometric="minisblack")
    with pytest.raises(UserError, match="5 pages; expected one image"):
        read_array(tmp_path / "b.tif")


def test_white_is_zero_tiffs_are_inverted(tmp_path):
    path = save(tmp_path / "a.tif", RAMP, tifffile=True, photometric="miniswhite")
    assert (read_array(path) == 255 - RAMP).all()


def test_channels_may_come_first(tmp_path):
    pixels = np.stack([RAMP, RAMP + 1, RAMP + 2])
    assert read_array(save(tmp_path / "a.npy", pixels)).shape == (12, 20, 3)


def test_transparency_is_ignored_and_not_blended(tmp_path):
    both = np.stack([RAMP, np.full_like(RAMP, 9)], -1)
    assert (read_array(save(tmp_path / "a.png", both)) == RAMP).all()
    four = np.concatenate([np.repeat(RAMP[..., None], 3, -1), np.full((12, 20, 1), 9, np.uint8)], -1)
    assert (read_array(save(tmp_path / "b.png", four)) == four[..., :3]).all()


def test_palette_images_are_converted_to_rgb(tmp_path):
    for name in ("a.png", "a.tif"):
        Image.fromarray(255 - RAMP // 128 * 255).convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / name)
        assert (read_image(tmp_path / name, 1)[0].numpy() == 255 - RAMP // 128 * 255).all()


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_deflate"])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_compressed_tiffs_are_read(tmp_path, kind, compression):
    assert (read_array(save(tmp_path / "a.tif", RAMP.astype(kind), compression=compression)) == RAMP).all()


def test_gray_and_colour_images_are_converted_into_each_other(tmp_path):
    gray = save(tmp_path / "a.png", RAMP)
    assert torch.equal(read_image(gray, 3), torch.from_numpy(RAMP).expand(3, -1, -1))
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 255
    assert read_image(save(tmp_path / "b.png", red), 1).unique().tolist() == [76]


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg", "a.bmp", "a.npy"])
@pytest.mark.parametrize(
    "content", [b"", b"this is text\n", b"\x89PNG\r\n\x1a\n truncated", b"II*\0\x10\0\0\0", b"\x93NUMPY"]
)
def test_a_broken_file_is_reported(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}: not a readable image"):
        read_array(tmp_path / name)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg", "a.bmp", "a.npy"])
def test_a_truncated_file_is_reported(tmp_path, name):
    rng = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    content = save(tmp_path / name, rng).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=rf"{name}: not a readable image"):
        read_array(tmp_path / name)


def test_arrays_that_are_not_images_are_rejected(tmp_path):
    for pixels, why in [
        (np.zeros(5), "shape"),
        (np.zeros((2, 3, 4, 5)), "shape"),
        (np.zeros((9, 9, 2)), "shape"),
        (np.zeros((4, 9, 9)), "shape"),
        (np.zeros((9, 9), complex), "complex"),
    ]:
        with pytest.raises(UserError, match=why):
            read_array(save(tmp_path / "a.npy", pixels))
    with pytest.raises(UserError, match="float32 pixels; expected 8 or 16 bits, or data=sar"):
        read_image(save(tmp_path / "a.npy", RAMP.astype(np.float32)), 1)


def test_a_pickled_array_is_not_executed(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(UserError, match="not a readable image"):
        read_array(tmp_path / "a.npy")


def test_a_folder_without_images_is_reported(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        list_images(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UserError, match=r"no image in it; expected files ending in \.bmp"):
        list_images(tmp_path)


def test_a_split_depends_only_on_names_and_seed():
    names = [f"s{i}" for i in range(20)]
    assert split_groups(names, 0.2, 0.2, 0) == split_groups(names[::-1], 0.2, 0.2, 0)
    assert split_groups(names, 0.2, 0.2, 0) != split_groups(names, 0.2, 0.2, 1)
    assert sorted(split_groups(names, 0.2, 0.2, 0).values()).count("test") == 4
    assert set(split_groups(names, 0.2, 0, 0).values()) == {"train", "val"}


def test_the_split_of_a_seed_is_the_same_on_every_machine():
    parts = split_groups([f"s{i}" for i in range(10)], 0.2, 0.2, 0)
    assert [name for name, split in parts.items() if split != "train"] == ["s7", "s8", "s1", "s5"]


def test_a_rotated_photo_is_rotated_upright(tmp_path):
    pixels = np.arange(32 * 16, dtype=np.uint16).reshape(32, 16) // 2
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: rows are columns
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_array(tmp_path / "a.png"), np.rot90(pixels.astype(np.uint8), -1))
