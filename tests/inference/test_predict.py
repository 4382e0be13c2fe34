import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from filelock import FileLock
from matplotlib import colormaps
from PIL import Image

import saaae
from saaae.cli import console
from saaae.data.files import read_array
from saaae.errors import UserError
from saaae.inference.bright import CONTEXT, DARKER, bright_places
from saaae.inference.image_files import ImageFile
from saaae.inference.image_output import writing
from saaae.inference.predict import Predictor
from saaae.inference.tiled_model import Options
from saaae.inference.tiling import fixed_axis, local_axis, overlap
from saaae.inference.unfinished import folder_of
from tests.conftest import TINY
from tests.inference.test_trained_model import CONVOLUTIONAL, MAPS

DESPECKLER = [*TINY, *CONVOLUTIONAL["despeckler"]]
VECTOR = ["model=vae", "model.latent_dim=4"]
PHOTO = ["data=folder", "data.root=.", "data.image_size=32", "model.encoder.widths=[8,8]", "accelerator=cpu", *MAPS]
GEOREFERENCE = [
    (33550, 12, 3, (10.0, 10.0, 0.0), True),
    (33922, 12, 6, (0.0, 0.0, 0.0, 5e5, 4e6, 0.0), True),
    (34735, 3, 4, (1, 1, 0, 0), True),
    (34737, 2, 0, "WGS 84|", True),
    (42112, 2, 0, "<GDALMetadata/>", True),
    (42113, 2, 0, "0", True),
]


def speckle(*shape, seed=0):
    """Amplitudes of single-look speckle with mean intensity 0.1."""
    return np.sqrt(0.1 * np.random.default_rng(seed).exponential(size=shape)).astype(np.float32)


@pytest.fixture
def saaae_command(capsys):
    """Runs the console script; gives its exit status, output and errors."""

    def run(*words):
        with pytest.raises(SystemExit) as stop:
            console.main([str(word) for word in words])
        return stop.value.code, *capsys.readouterr()

    return run


@pytest.fixture
def despeckler(stored_run):
    """An untrained despeckler whose last layer is not zero."""
    run = stored_run(*DESPECKLER, name="despeckler")
    path = run / "checkpoints" / "best.ckpt"
    content = torch.load(path, weights_only=True)
    torch.manual_seed(0)
    for name, value in content["state_dict"].items():
        if "decoder.last" in name:
            value.normal_(0, 0.05)
    torch.save(content, path)
    return run


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".tif":
        tifffile.imwrite(path, values, photometric="rgb" if values.ndim == 3 else "minisblack", metadata=None)
    else:
        Image.fromarray(values).save(path, **({"lossless": True} if path.suffix == ".webp" else {}))
    return path


@pytest.mark.parametrize(
    ("name", "dtype", "channels"),
    [
        ("a.png", "uint8", 1), ("a.png", "uint16", 1), ("a.png", "uint8", 3), ("a.jpg", "uint8", 1),
        ("a.bmp", "uint8", 1), ("a.webp", "uint8", 3), ("a.tif", "uint8", 1), ("a.tif", "uint16", 1),
        ("a.tif", "int16", 1),
        ("a.tif", "float32", 1), ("a.tif", "float64", 1), ("a.tif", "uint8", 3), ("a.npy", "float32", 1),
        ("a.npy", "float16", 1), ("a.npy", "uint16", 3),
    ],
)  # fmt: skip
def test_results_have_the_kind_size_type_and_scale_of_the_image(despeckler, tmp_path, name, dtype, channels):
    largest = 1000.0 if np.dtype(dtype).kind == "f" or dtype == "int16" else np.iinfo(dtype).max
    values = (np.minimum(speckle(50, 37), 1) * largest).astype(dtype)
    values = values if channels == 1 else np.repeat(values[..., None], 3, -1)
    path = save(tmp_path / "images" / name, values)
    stored = read_array(path)
    predictor = Predictor(saaae.load(despeckler), Options())
    out = tmp_path / "out" / ("a.png" if name == "a.jpg" else name)
    predictor.predict(path, out)
    result = read_array(out)
    assert (result.shape, result.dtype) == (stored.shape, stored.dtype)
    assert 0.7 < (result.astype(float) ** 2).mean() / (stored.astype(float) ** 2).mean() < 1.4
    ratio = read_array(out.with_name("a_ratio.npy" if name == "a.npy" else "a_ratio.tif"))
    first = (values[..., 0] if channels == 3 else values).astype(float)
    restored = (result[..., 0] if result.ndim == 3 else result).astype(float)
    if name != "a.jpg" and np.dtype(dtype).kind == "f":
        np.testing.assert_allclose(ratio, first**2 / restored**2, rtol=0.02)


@pytest.mark.parametrize("scale", ["intensity", "decibel"])
def test_intensities_and_decibels_come_back_on_their_scale(despeckler, tmp_path, scale):
    amplitude = speckle(48, 48) * 20
    values = amplitude**2 if scale == "intensity" else 20 * np.log10(amplitude)
    path = save(tmp_path / "a.tif", values.astype(np.float32))
    reference = save(tmp_path / "b.tif", amplitude)
    model = saaae.load(despeckler)
    Predictor(model, Options(scale=scale)).predict(path, tmp_path / "out" / "a.tif")
    Predictor(model, Options()).predict(reference, tmp_path / "out" / "b.tif")
    result, expected = (tifffile.imread(tmp_path / "out" / name) for name in ("a.tif", "b.tif"))
    result = np.sqrt(result) if scale == "intensity" else 10 ** (result / 20)
    np.testing.assert_allclose(result, expected, rtol=1e-2)


def test_tags_of_tiff_files_are_copied(despeckler, tmp_path):
    path = tmp_path / "a.tif"
    options = {"resolution": (72, 36), "resolutionunit": 2, "description": "a scene", "metadata": None}
    tifffile.imwrite(path, speckle(40, 40), extratags=GEOREFERENCE, **options)
    Predictor(saaae.load(despeckler), Options()).predict(path, tmp_path / "out" / "a.tif")
    with tifffile.TiffFile(path) as before, tifffile.TiffFile(tmp_path / "out" / "a.tif") as after:
        copied = [*(tag[0] for tag in GEOREFERENCE), 282, 283, 296, 270]
        assert [after.pages[0].tags[tag].value for tag in copied] == [before.pages[0].tags[tag].value for tag in copied]
    with tifffile.TiffFile(tmp_path / "out" / "a_ratio.tif") as ratio:
        assert ratio.pages[0].tags[33550].value == (10.0, 10.0, 0.0)
        assert 42113 not in ratio.pages[0].tags


@pytest.mark.parametrize("shape", [(200, 150), (97, 203)])
def test_tiles_equal_the_whole_image(despeckler, tmp_path, shape):
    path = save(tmp_path / "a.npy", speckle(*shape))
    model = saaae.load(despeckler)
    assert 0 < Predictor(model, Options()).margin < 64
    for name, tile in (("whole", 512), ("tiles", 104)):
        Predictor(model, Options(tile=tile, full_scale=1.5)).predict(path, tmp_path / name / "a.npy")
    whole, tiles = (np.load(tmp_path / name / "a.npy") for name in ("whole", "tiles"))
    assert 1e-3 > np.abs(whole - tiles).max() > 0
    expected = model.reconstruct(np.minimum(speckle(*shape) / 1.5, 1))[0, 0] * 1.5
    assert np.abs(expected.numpy() - whole).max() < 1e-3


@pytest.mark.parametrize("name", ["vae", "despeckler"])
def test_the_tiles_of_an_image_do_not_depend_on_images_before_it(stored_run, name):
    predictor = Predictor(saaae.load(stored_run(*TINY, *CONVOLUTIONAL[name])), Options())
    first = predictor.axes(100, 60)
    predictor.axes(700, 600)
    assert str(predictor.axes(100, 60)) == str(first)
    assert len(predictor.axes(32, 32)[0].starts) == 1


def test_weights_of_tiles_sum_to_one_and_starts_are_multiples_of_the_stride():
    for length in (8, 100, 512, 1000, 1003, 5000):
        for axis in (local_axis(length, 256, 32, 8), fixed_axis(length, 64, 4), fixed_axis(length, 64, 1)):
            total = np.zeros(axis.length)
            for start, weight in zip(axis.starts, axis.weights, strict=True):
                total[start : start + axis.size] += weight
            np.testing.assert_allclose(total, 1, atol=1e-6)
            assert axis.length >= length
        local = local_axis(length, 256, 32, 8)
        assert local.size <= 256
        assert all(start % 8 == 0 for start in local.starts)
        assert all(not weight[:32].any() for weight in local.weights[1:])
    assert overlap(32, 8) == 80


@pytest.mark.parametrize("overrides", [MAPS, VECTOR])
def test_models_with_vectors_and_with_maps_take_any_size(stored_run, tmp_path, overrides):
    predictor = Predictor(saaae.load(stored_run(*TINY, *overrides)), Options(latents=True, scale="amplitude"))
    for shape in ((20, 70), (32, 32), (90, 41)):
        path = save(tmp_path / "a.png", (np.minimum(speckle(*shape), 1) * 255).astype(np.uint8))
        predictor.predict(path, tmp_path / "out" / "a.png")
        assert read_array(tmp_path / "out" / "a.png").shape == shape
        latents = np.load(tmp_path / "out" / "a_latents.npy")
        assert latents.dtype == np.float32
        assert np.isfinite(latents).all()
        if overrides is VECTOR:
            assert latents.shape[1:] == (4,)


def test_bright_targets_are_seen_darker(despeckler):
    predictor = Predictor(saaae.load(despeckler), Options())
    x = torch.full((2, 1, 64, 64), 0.2)
    x[1, :, 28:36, 28:36] = 6.0
    x_hat, _ = predictor.run(x)
    assert torch.allclose(x_hat[:1], predictor.run(x[:1])[0], atol=1e-6)
    darker = DARKER * predictor.run(x[1:] / DARKER)[0]
    assert torch.allclose(x_hat[1, 0, 30:34, 30:34], darker[0, 0, 30:34, 30:34])


def test_with_flips_a_turned_image_gives_the_turned_result(despeckler, tmp_path):
    image = speckle(64, 40)
    image[20:24, 10:14] = 4.0  # seen darker
    turned = np.rot90(image)[::-1]
    for flips in (False, True):
        predictor = Predictor(saaae.load(despeckler), Options(flips=flips, full_scale=1.0))
        found = []
        for name, values in (("image", image), ("turned", turned)):
            predictor.predict(save(tmp_path / f"{name}.npy", values), tmp_path / "out" / f"{name}.npy")
            found.append(np.load(tmp_path / "out" / f"{name}.npy"))
        assert (np.abs(np.rot90(found[0])[::-1] - found[1]).max() < 1e-5) == flips


def test_missing_pixels_stay_missing(despeckler, tmp_path):
    values = speckle(60, 60)
    values[10:20, 5:30] = np.nan
    path = save(tmp_path / "a.npy", values)
    Predictor(saaae.load(despeckler), Options()).predict(path, tmp_path / "out" / "a.npy")
    for name in ("a.npy", "a_ratio.npy"):
        assert np.array_equal(np.isnan(np.load(tmp_path / "out" / name)), np.isnan(values))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rowsperstrip": 7},
        {"byteorder": ">"},
        {"compression": "zlib", "rowsperstrip": 7},
        {"compression": "zlib", "predictor": 2, "rowsperstrip": 7},
        {"tile": (16, 32), "compression": "zlib"},
        {"tile": (16, 32)},
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_rows_of_a_file_equal_those_of_the_whole(tmp_path, options, channels):
    values = np.random.default_rng(0).integers(0, 60000, (50, 37, channels), dtype=np.uint16)
    values = values[..., 0] if channels == 1 else values
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb" if channels == 3 else "minisblack", **options)
    np.save(tmp_path / "a.npy", values)
    for name in ("a.tif", "a.npy"):
        image = ImageFile(tmp_path / name)
        assert image.by_rows
        assert image.dtype == np.uint16
        rows = np.concatenate([image.rows(start, min(start + 9, 50)) for start in range(0, 50, 9)])
        assert np.array_equal(rows.reshape(values.shape), values)


def test_other_arrays_are_read_whole(tmp_path):
    first = np.random.default_rng(0).random((3, 20, 30), np.float32)
    np.save(tmp_path / "a.npy", first)
    assert np.array_equal(ImageFile(tmp_path / "a.npy").rows(3, 9), first.transpose(1, 2, 0)[3:9])
    np.save(tmp_path / "b.npy", np.asfortranarray(first[0]))
    assert np.array_equal(ImageFile(tmp_path / "b.npy").rows(3, 9)[..., 0], first[0, 3:9])


def test_a_result_appears_when_it_is_whole(tmp_path):
    def fail():
        with writing(tmp_path / "a.tif", (4, 4), np.dtype("f4")) as rows:
            rows.write(np.zeros((2, 4)))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_only_what_is_missing_is_done_and_broken_files_are_named(despeckler, saaae_command, tmp_path):
    images, to = tmp_path / "images", tmp_path / "out"
    save(images / "a.npy", speckle(32, 32))
    save(images / "below" / "b.png", (np.minimum(speckle(32, 32), 1) * 255).astype(np.uint8))
    (images / "broken.png").write_text("no image")
    words = ("predict", despeckler, images, to)
    status, printed, errors = saaae_command(*words)
    assert status == 1
    assert f"{images}/broken.png: not a readable image (no known image format); replace or remove it" in errors
    assert "1 of 3 images could not be used" in errors
    assert len(printed.splitlines()) == 2
    assert "32 x 32 float32, amplitude, full_scale=" in printed
    assert "s per megapixel" in printed
    names = {str(path.relative_to(to)) for path in to.rglob("*") if path.is_file()}
    assert names == {"a.npy", "a_ratio.npy", "below/b.png", "below/b_ratio.tif"}
    (images / "broken.png").unlink()
    (to / "a_ratio.npy").unlink()
    status, printed, _ = saaae_command(*words)
    assert (status, printed.splitlines()[0]) == (0, "1 of 2 are done already; overwrite=true makes them again")
    assert len(printed.splitlines()) == 2
    assert len(saaae_command(*words, "overwrite=true")[1].splitlines()) == 2


@pytest.mark.processes
def test_processes_share_the_files(despeckler, saaae_command, tmp_path):
    for name in ("a", "b"):
        save(tmp_path / "images" / f"{name}.npy", speckle(32, 32))
    status, printed, _ = saaae_command("predict", despeckler, tmp_path / "images", tmp_path / "out", "processes=2")
    assert status == 0
    assert len(printed.splitlines()) == 2
    assert len(list((tmp_path / "out").iterdir())) == 4


def test_fabric_gets_scores_and_heat_maps(stored_run, saaae_command, tmp_path):
    overrides = ["data=aitex", f"data.root={tmp_path}", "data.image_size=32", "model.encoder.widths=[8,8]"]
    run = stored_run(*overrides, "accelerator=cpu", *MAPS)
    for name in ("a", "b"):
        save(tmp_path / "images" / f"{name}.png", (np.minimum(speckle(40, 70), 1) * 255).astype(np.uint8))
    assert saaae_command("predict", run, tmp_path / "images", tmp_path / "out")[0] == 0
    with (tmp_path / "out" / "scores.csv").open() as file:
        scores = {row["name"]: float(row["score"]) for row in csv.DictReader(file)}
    assert scores.keys() == {"a.png", "b.png"}
    model, x = saaae.load(run), read_array(tmp_path / "images" / "a.png")
    assert scores["a.png"] == pytest.approx(model.anomaly_map(x).max().item(), rel=0.5)
    for kind in ("heatmap", "overlay"):
        assert read_array(tmp_path / "out" / f"a_{kind}.png").shape == (40, 70, 3)


def test_a_model_that_marks_defects_scores_by_its_marks(stored_run, saaae_command, tmp_path):
    overrides = ["data=folder", f"data.root={tmp_path}", "data.image_size=32", "accelerator=cpu"]
    run = stored_run("model=fabric_unet", "model.encoder.widths=[8,8]", *overrides)
    values = (np.minimum(speckle(30, 32), 1) * 255).astype(np.uint8)
    values[10:14, 10:14] = 255
    path = save(tmp_path / "images" / "a.png", values)
    assert saaae_command("predict", run, path, tmp_path / "out")[0] == 0
    model, heat = saaae.load(run), read_array(tmp_path / "out" / "a_heatmap.png")
    marks = model.anomaly_map(values)[0, 0]
    score = float((tmp_path / "out" / "scores.csv").read_text().splitlines()[1].split(",")[1])
    assert score == pytest.approx(marks.max().item(), abs=1e-3)
    expected = colormaps["inferno"](marks.sigmoid().numpy(), bytes=True)[..., :3]
    assert np.abs(heat.astype(int) - expected).max() <= 2


def test_photos_keep_their_size_and_colours_become_gray(stored_run, tmp_path):
    predictor = Predictor(saaae.load(stored_run(*PHOTO)), Options())
    model = predictor.model
    values = np.random.default_rng(0).integers(0, 256, (30, 40, model.channels), dtype=np.uint8)
    save(tmp_path / "a.png", values[..., 0] if model.channels == 1 else values)
    predictor.predict(tmp_path / "a.png", tmp_path / "out" / "a.png")
    result = read_array(tmp_path / "out" / "a.png")
    expected = model.reconstruct(values.transpose(2, 0, 1))[0].permute(1, 2, 0).numpy() * 255
    assert np.abs(result.reshape(values.shape) - expected).max() < 1


def test_what_cannot_be_meant_is_named_in_one_line(despeckler, stored_run, saaae_command, tmp_path):
    images, to = tmp_path / "images", tmp_path / "out"
    good = save(images / "good.npy", speckle(32, 32))
    files = {
        "text.txt": None, "text.png": None, "tiny.npy": np.ones((1, 1)), "colour.npy": np.random.rand(32, 32, 3),
        "nan.npy": np.full((32, 32), np.nan), "zero.npy": np.zeros((32, 32)), "negative.npy": -speckle(32, 32),
        "complex.npy": np.ones((32, 32), complex), "cube.npy": np.ones((4, 32, 32)), "empty.npy": np.ones((0, 32)),
    }  # fmt: skip
    for name, values in files.items():
        path = tmp_path / "wrong" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("text") if values is None else np.save(path, values)
    wrong, (file, empty) = tmp_path / "wrong", (tmp_path / "file", tmp_path / "empty")
    file.write_text("x")
    empty.mkdir()
    save(tmp_path / "same" / "a.png", np.full((32, 32), 9, np.uint8))
    save(tmp_path / "same" / "a.jpg", np.full((32, 32), 9, np.uint8))
    same, vector = tmp_path / "same", stored_run(*TINY, *VECTOR, name="vector")
    endings = ".bmp, .jpeg, .jpg, .npy, .png, .tif, .tiff, .webp"
    nothing = f"no image matches; expected files ending in {endings}"
    inside = f"lies in images={images}; expected another folder, results would count as images"
    no_image = "not a readable image (no known image format); replace or remove it"
    shape = "an array of shape (4, 32, 32); expected one image, gray or with three channels"
    names = f"images: {same}/a.jpg and {same}/a.png would both become a.png; predict them separately"
    kind = f"not an image file; expected one ending in {endings}"
    gray, no_pixel = (
        "a colour image; expected one channel, or equal ones",
        "no pixel with a value, all are NaN or no data",
    )
    decibel = f"most pixels of {wrong}/negative.npy are negative; did you mean scale=decibel?"
    table = [
        ((despeckler, tmp_path / "none", to), f"images={tmp_path}/none: no such file or folder"),
        ((despeckler, empty, to), f"images={empty}: {nothing}"),
        ((despeckler, f"{images}/*.xyz", to), f"images={images}/*.xyz: {nothing}"),
        ((despeckler, images, images / "out"), f"to={images}/out: {inside}"),
        ((despeckler, images, images), f"to={images}: {inside}"),
        ((despeckler, good, images), f"to={images}: the folder of {good}; expected another one"),
        ((despeckler, images, file), f"to={file}: is a file; expected a folder"),
        ((despeckler, images, file / "x"), f"to={file}/x: cannot be written; expected a folder that can"),
        ((despeckler, same, to), names),
        ((despeckler, wrong / "text.txt", to), f"{wrong}/text.txt: {kind}"),
        ((despeckler, wrong / "text.png", to), f"{wrong}/text.png: {no_image}"),
        ((despeckler, wrong / "tiny.npy", to), f"{wrong}/tiny.npy: 1 x 1 pixels; expected at least 8 x 8"),
        ((despeckler, wrong / "colour.npy", to), f"{wrong}/colour.npy: {gray}"),
        ((despeckler, wrong / "nan.npy", to), f"{wrong}/nan.npy: {no_pixel}"),
        ((despeckler, wrong / "zero.npy", to), f"{wrong}/zero.npy: all pixels are 0; expected an image"),
        ((despeckler, wrong / "negative.npy", to), f"scale=amplitude: {decibel}"),
        ((despeckler, wrong / "complex.npy", to), f"{wrong}/complex.npy: complex128 pixels; expected"),
        ((despeckler, wrong / "cube.npy", to), f"{wrong}/cube.npy: {shape}"),
        ((despeckler, wrong / "empty.npy", to), f"{wrong}/empty.npy: not a readable image (no pixels in it)"),
        ((tmp_path / "norun", images, to), f"{tmp_path}/norun: no such run folder"),
        ((despeckler, images, to, "full_scale=0"), "full_scale=0: expected greater than 0 for scale=amplitude"),
        ((despeckler, images, to, "label=1"), "label=1: a Despeckler has no classes"),
        ((despeckler, images, to, "device=cuda:7"), "device=cuda:7: not available on this machine; expected cpu"),
        ((despeckler, images, Path("/proc/x")), "to=/proc/x: cannot be "),
        ((despeckler, images, to, "tile=33"), "tile=33: expected a multiple of "),
        ((vector, images, to, "tile=64"), "tile=64: the latent is a vector; expected tile=32"),
    ]  # fmt: skip
    for words, message in table:
        status, printed, errors = saaae_command("predict", *words)
        assert (status, printed) == (2, ""), words
        assert errors.count("\n") == 1
        assert errors.startswith(f"error: {message}"), errors
    assert not to.exists()


def test_despeckle_says_when_its_model_is_missing(monkeypatch, saaae_command, despeckler, tmp_path):
    save(tmp_path / "images" / "a.npy", speckle(32, 32))
    words = ("despeckle", tmp_path / "images", tmp_path / "out")
    monkeypatch.setattr("saaae.cli.predict.DESPECKLER", tmp_path / "none")
    assert saaae_command(*words)[::2] == (
        2,
        f"error: {tmp_path}/none: no such folder; the despeckler is not installed, use saaae predict run=<your run>\n",
    )  # fmt: skip
    monkeypatch.setattr("saaae.cli.predict.DESPECKLER", despeckler)
    assert saaae_command(*words)[0] == 0


def test_every_bright_pixel_is_in_a_place_with_its_context():
    rng = np.random.default_rng(0)
    weight = np.zeros((320, 512), np.float32)
    weight[rng.integers(0, 320, 12), rng.integers(0, 512, 12)] = 0.5
    weight[100:180, 300:310] = 1.0
    covered = np.zeros_like(weight, bool)
    places = bright_places(weight, 8)
    for place, window in places:
        covered[place] = True
        for part, around, length in zip(place, window, weight.shape, strict=True):
            assert around.start == max(part.start - CONTEXT, 0) // 8 * 8
            assert around.stop == min(-(-(part.stop + CONTEXT) // 8) * 8, length)
    assert covered[weight > 0].all()
    seen = sum((rows.stop - rows.start) * (columns.stop - columns.start) for _, (rows, columns) in places)
    assert 1 < len(places) < 13
    assert seen < weight.size


def test_a_model_of_whole_images_sees_the_whole_image_for_a_bright_place():
    weight = np.zeros((32, 48), np.float32)
    assert bright_places(weight, None) == []
    weight[3, 4] = 1.0
    assert bright_places(weight, None) == [((slice(0, 32), slice(0, 48)),) * 2]


def test_bright_pixels_that_are_not_used_are_not_seen_again(despeckler):
    predictor = Predictor(saaae.load(despeckler), Options())
    x = torch.full((1, 1, 64, 64), 0.2)
    x[..., 2:6, 2:6] = 6.0
    used = torch.ones(1, 1, 64, 64, dtype=torch.bool)
    used[..., :32] = False
    x_hat, once = predictor.run(x)[0], predictor.run(x, used)[0]
    assert torch.equal(x_hat[used], once[used])
    assert not torch.equal(x_hat, once)


class Counted(Predictor):
    """Counts tiles, and is interrupted after some."""

    tiles, last, failure = 0, 10**6, KeyboardInterrupt

    def run(self, x, used=None):
        if self.tiles == self.last:
            raise self.failure
        self.tiles += len(x)
        return super().run(x, used)


@pytest.fixture
def large_scene(despeckler, tmp_path, monkeypatch):
    """Makes predictors that count their tiles; the path of a scene of 6 tiles that counts as large, and its result."""
    monkeypatch.setattr("saaae.inference.unfinished.LARGE", 200 * 150)
    path = save(tmp_path / "a.tif", speckle(200, 150))
    model, options = saaae.load(despeckler), Options(tile=104, batch_size=1, latents=True)
    margin = Predictor(model, options).margin

    def counted(last=10**6, model=model, options=options):
        predictor = Counted(model, options)
        predictor.margin, predictor.last = margin, last
        return predictor

    return counted, path, tmp_path / "out" / "a.tif"


def test_an_interrupted_scene_continues_with_the_tiles_that_are_missing(large_scene, tmp_path):
    counted, path, out = large_scene
    once = counted()
    once.predict(path, tmp_path / "once" / "a.tif")
    assert once.tiles == 6
    with pytest.raises(KeyboardInterrupt):
        counted(5).predict(path, out)
    assert [file.name for file in out.parent.iterdir()] == [".a.tif.unfinished"]
    out.with_name(".a.tif.x1y2.part").touch()  # left by a killed process
    continued = counted()
    assert "2 rows of tiles done before" in continued.predict(path, out).note
    assert continued.tiles == 2
    for name in ("a.tif", "a_ratio.tif", "a_latents.npy"):
        assert out.with_name(name).read_bytes() == (tmp_path / "once" / name).read_bytes()
    assert len(list(out.parent.iterdir())) == 3


def test_other_settings_weights_or_pixels_begin_a_scene_again(large_scene):
    counted, path, out = large_scene
    predictor = counted(5)
    with pytest.raises(KeyboardInterrupt):
        predictor.predict(path, out)
    predictor.options = replace(predictor.options, latents=False)
    weights = next(predictor.model.network.parameters()).data
    for change in (lambda: None, lambda: weights.add_(0.1), lambda: save(path, speckle(200, 150, seed=1))):
        change()
        again = counted(5, options=predictor.options)
        with pytest.raises(KeyboardInterrupt):
            again.predict(path, out)
        assert again.tiles == 5


def test_a_damaged_row_of_tiles_is_computed_again(large_scene):
    counted, path, out = large_scene
    with pytest.raises(KeyboardInterrupt):
        counted(5).predict(path, out)
    first = next(out.parent.glob(".a.tif.unfinished/*0.npz"))
    first.write_bytes(first.read_bytes()[:50])
    continued = counted()
    assert "1 row of tiles" in continued.predict(path, out).note
    assert continued.tiles == 4


def test_two_processes_do_not_write_one_scene(large_scene):
    counted, path, out = large_scene
    folder = out.with_name(".a.tif.unfinished")
    folder.mkdir(parents=True)
    with FileLock(folder / "lock"), pytest.raises(UserError, match="another process is writing it"):
        counted().predict(path, out)
    assert folder.is_dir()


def test_options_that_do_not_fit_a_scene_leave_nothing(large_scene):
    counted, path, out = large_scene
    predictor = counted()
    predictor.options = replace(predictor.options, tile=16)
    with pytest.raises(UserError, match="tile=16"):
        predictor.predict(path, out)
    assert not out.parent.exists()


def test_rows_of_a_scene_that_is_whole_are_deleted(large_scene, saaae_command, despeckler):
    _, path, out = large_scene
    assert saaae_command("predict", despeckler, path, out.parent)[0] == 0
    folder_of(out).mkdir()  # its process was killed while it cleaned up
    assert saaae_command("predict", despeckler, path, out.parent)[0] == 0
    assert not folder_of(out).exists()


def test_overlapping_bright_places_are_blended_once(despeckler, monkeypatch):
    predictor = Predictor(saaae.load(despeckler), Options())
    x = torch.full((1, 1, 64, 64), 0.2)
    x[..., 28:36, 28:36] = 1.0
    once = predictor.run(x)[0]
    monkeypatch.setattr("saaae.inference.tiled_model.bright_places", lambda *args: 2 * bright_places(*args))
    assert torch.equal(predictor.run(x)[0], once)
