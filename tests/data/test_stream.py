"""Images from shards equal those in memory; their order uses few shards at a time and resumes exactly."""

import importlib.util
import json
import multiprocessing
import os
import pickle
import random
import shutil
import signal
import sys

import fsspec
import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image

from saaae.data.corruption import GaussianNoise
from saaae.data.datamodule import SPLITS
from saaae.data.folder import FolderData
from saaae.data.sar import SARData
from saaae.data.shards import INDEX, write_shards
from saaae.data.stores import RemoteStore
from saaae.data.stream import ShardBatches, StreamData
from saaae.errors import UserError
from tests.comparison import assert_continued_exactly
from tests.conftest import CONF, SERVING, real_data
from tests.data.test_datamodule import Watch
from tests.runs.test_survival import steps
from tests.zygote import wait_until

FILES = {
    "val_fraction": 0.2, "test_fraction": 0.2, "split_by": "file", "on_error": "raise", "allow_duplicates": False,
    "cache_dir": None, "image_size": 16, "channels": 1, **SERVING,
}  # fmt: skip
SAR = {
    "reference_root": None, "target": "noisy", "scale": "amplitude", "full_scale": None, "enl_windows": None,
    "scene_pattern": r"^(scene\d+)_", **FILES,
}  # fmt: skip
STREAM = {
    "target": "noisy", "labels": None, "shuffle_shards": 2, "cache_gb": 1.0, "cache_dir": None, "image_size": 16,
    "channels": 1, **SERVING,
}  # fmt: skip
LIMIT = 13_000
"""Size in bytes of a cache for three windows of two shards, about half of the training shards."""


def write_scenes(root, seed=0, channels=()):
    """Ten scenes of two images each, with 2 x 3 tiles of 16 pixels and a remainder."""
    root.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    for scene in range(10):
        for tile in range(2):
            pixels = generator.integers(0, 256, (37, 50, *channels), np.uint8)
            Image.fromarray(pixels).save(root / f"scene{scene:02d}_{tile}.png")
    return root


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("archive") / "scenes")


@pytest.fixture(scope="session")
def shards(scenes):
    """72 training tiles in shards of 7."""
    write_shards(SARData(root=str(scenes), **SAR), scenes.parent / "shards", 7)
    return scenes.parent / "shards"


@pytest.fixture
def copied(shards, tmp_path):
    """A copy of the shards that a test may damage."""
    return shutil.copytree(shards, tmp_path / "shards")


@pytest.fixture
def stream(shards, tmp_path):
    def made(root=shards, **options):
        data = StreamData(root=str(root), **{**STREAM, "cache_dir": str(tmp_path / "cache"), **options})
        data.setup()
        return data

    return made


@pytest.fixture
def memory(tmp_path):
    def made(root, kind=SARData, **options):
        options = {**(SAR if kind is SARData else FILES), "cache_dir": str(tmp_path / "memory"), **options}
        data = kind(root=str(root), **options)
        data.setup()
        return data

    return made


def error_of(call, *arguments, **options):
    """The message of a usage error."""
    with pytest.raises(UserError) as caught:
        call(*arguments, **options)
    line = str(caught.value)
    del caught  # breaks a reference cycle with this frame, which would keep the workers of a loader alive
    assert "\n" not in line
    return line


def same(a, b):
    """Whether two batches are equal."""
    return all(
        torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y
        for field, x, y in zip(a._fields, a, b, strict=True)
        if field != "rng"
    )


def assert_equal(streamed, held):
    for split in SPLITS:
        assert streamed.num_images(split) == held.num_images(split)
        indices = torch.randperm(held.num_images(split))
        assert same(streamed.batch(split, indices), held.batch(split, indices)), split
    for loader in ("val_dataloader", "test_dataloader"):
        for a, b in zip(getattr(streamed, loader)(), getattr(held, loader)(), strict=True):
            assert same(a, b)
    assert streamed.manifest() == held.manifest()
    assert streamed.split_hash() == held.split_hash()
    assert streamed.domain == held.domain


# The same images as in memory


def test_images_evaluation_order_noise_and_manifest_equal_those_in_memory(stream, memory, scenes):
    noisy = {"corruption": GaussianNoise(std=0.1)}
    held = memory(scenes, **noisy)
    assert held.num_images("train") == 72
    assert_equal(stream(**noisy), held)


def test_references_windows_and_regions_equal_those_in_memory(stream, memory, tmp_path):
    noisy, clean = write_scenes(tmp_path / "noisy"), write_scenes(tmp_path / "clean", seed=1)
    options = {
        "reference_root": str(clean), "target": "clean", "split_by": "region", "scale": "intensity",
        "enl_windows": {"scene03_1.png": [2, 20, 30, 28]},
    }  # fmt: skip
    held = memory(noisy, **options)
    assert held.splits["train"].pixels.dtype == torch.float32
    assert held.batch("test", torch.arange(held.num_images("test"))).window[:, 2].any()
    write_shards(SARData(root=str(noisy), **{**SAR, **options}), tmp_path / "shards", 9)
    assert_equal(stream(tmp_path / "shards", target="clean"), held)


def test_colours_and_skipped_files_equal_those_in_memory(stream, memory, tmp_path):
    root = write_scenes(tmp_path / "colours", channels=(3,))
    (root / "scene04_1.png").write_bytes(b"broken")
    Image.new("RGB", (9, 9)).save(root / "small.png")
    options = {
        "test_root": None, "labels": None, "group_pattern": r"^(scene\d+)_", "fit": "tiles", "on_error": "skip",
        "channels": 3,
    }  # fmt: skip
    write_shards(FolderData(root=str(root), **{**FILES, **options}), tmp_path / "shards", 9)
    streamed = stream(tmp_path / "shards", channels=3)
    assert_equal(streamed, memory(root, FolderData, **options))
    assert list(streamed.manifest()["skipped"]) == ["scene04_1.png"]
    assert streamed.manifest()["left_out"] == {"images smaller than a tile": 1}


def test_streamed_real_scenes_equal_those_in_memory(stream, memory, tmp_path):
    root = real_data("sar", "mstar", "scenes")
    write_shards(SARData(root=str(root), **{**SAR, "image_size": 128}), tmp_path / "shards", 64)
    assert_equal(stream(tmp_path / "shards", image_size=128), memory(root, image_size=128))


def test_numpy_reads_shards(shards, stream):
    parts = [np.load(path)["pixels"] for path in sorted((shards / "val").iterdir())]
    pixels = stream().splits["val"].take(torch.arange(24)).pixels
    assert torch.equal(torch.from_numpy(np.concatenate(parts)), pixels)


# The order


COUNTS = [7] * 10 + [2]
FIRST = [[3, 5, 32, 71], [34, 28, 29, 31]]


def order_of(epoch, seed=0, start=0, rank=0, num_processes=1, window=3, prepared=None, batch_size=4):
    prepare = [].append if prepared is None else prepared.append
    sampler = ShardBatches(COUNTS, window, prepare, batch_size, seed, rank, num_processes)
    sampler.epoch, sampler.start = epoch, start
    batches = [batch.tolist() for batch in sampler]
    assert len(batches) == len(sampler) - start
    return batches


def shard_of(image):
    return min(image // 7, 10)


def test_an_epoch_contains_every_image_once_in_an_order_that_depends_only_on_seed_and_epoch():
    first = order_of(0)
    assert sorted(i for batch in first for i in batch) == list(range(72))
    torch.manual_seed(3)
    assert order_of(0) == first
    assert order_of(1) != first
    assert order_of(0, seed=1) != first
    assert [len(batch) for batch in first] == [4] * 18
    assert first[:2] == FIRST  # the order of earlier versions, whose runs must resume


def test_the_order_can_start_anywhere_without_preparing_earlier_windows():
    whole = order_of(2)
    for start in range(len(whole) + 1):
        prepared = []
        assert order_of(2, start=start, prepared=prepared) == whole[start:]
        assert len(prepared) <= 4 - (start * 4) // 21


def test_a_window_reads_no_more_shards_than_its_size():
    prepared = []
    images = [i for batch in order_of(0, prepared=prepared) for i in batch]
    place = 0
    for shards in prepared:
        window = shards[:3]
        assert len(shards) <= 6
        size = sum(COUNTS[shard] for shard in window)
        assert {shard_of(i) for i in images[place : place + size]} == set(window)
        place += size
    assert place == 72
    assert len({shard_of(i) for i in images[:7]}) > 1  # images are shuffled too, not only shards


@pytest.mark.parametrize("num_processes", [2, 3])
@pytest.mark.parametrize("batch_size", [4, 5])
def test_several_processes_share_each_step_as_in_memory(num_processes, batch_size):
    one = order_of(1, batch_size=batch_size * num_processes)
    ranks = [order_of(1, rank=r, num_processes=num_processes, batch_size=batch_size) for r in range(num_processes)]
    assert len({len(of_rank) for of_rank in ranks}) == 1
    for step, whole in enumerate(one[: len(ranks[0])]):
        parts = [of_rank[step] for of_rank in ranks]
        assert len({len(part) for part in parts}) == 1
        interleaved = [i for together in zip(*parts, strict=True) for i in together]
        assert interleaved == whole[: len(interleaved)]
        assert len(whole) - len(interleaved) < num_processes


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_resumed_at_any_step_yields_exactly_the_remaining_batches(stream, workers):
    def epoch(data):
        return [(raw.indices.tolist(), raw.pixels) for raw in data.train_dataloader()]

    data = stream(num_workers=workers)
    data.load_state_dict({"epoch": 1, "batch": 0})
    whole = epoch(data)
    for start in (0, 1, 5, 17) if workers else range(18):
        data = stream(num_workers=workers)
        data.load_state_dict({"epoch": 1, "batch": start})
        rest = epoch(data)
        assert [indices for indices, _ in rest] == [indices for indices, _ in whole[start:]]
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(rest, whole[start:], strict=True))


def test_few_shards_are_open_at_a_time(stream):
    data = stream()
    for _ in data.train_dataloader():
        assert data.splits["train"].opened.cache_info().currsize <= 4
    assert len(list(data.val_dataloader())) == 6


# URLs


def kept(data):
    """Size in bytes of the cached downloads."""
    sizes = []
    for path in data.store.folder.iterdir():
        try:
            sizes.append(path.stat().st_size)
        except FileNotFoundError:
            continue
    return sum(sizes)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_url_is_read_through_a_bounded_cache_and_shards_are_downloaded_once_per_epoch(
    stream, shards, workers, tmp_path, monkeypatch
):
    held, fetch, log = stream(), RemoteStore._fetch, tmp_path / "downloads"
    options = {"num_workers": workers, "batch_size": 2}  # so that the workers are less than a window behind
    data = stream(f"file://{shards}", cache_gb=LIMIT / 1e9, **options)

    def logged(store, name):  # in the workers too
        with log.open("a") as file:
            file.write(f"{name}\n")
        return fetch(store, name)

    monkeypatch.setattr(RemoteStore, "_fetch", logged)
    seen = []
    for raw in data.train_dataloader():
        assert torch.equal(raw.pixels, held.splits["train"].take(raw.indices).pixels)
        assert 0 < kept(data) <= LIMIT
        seen += raw.indices.tolist()
    assert sorted(seen) == list(range(72))
    assert kept(data) < sum(shard.size for shard in data.index.shards["train"])
    downloads = log.read_text().split()
    assert len(set(downloads)) == len(downloads) == 11
    for raw in data.test_dataloader():
        assert torch.equal(raw.pixels, held.splits["test"].take(raw.indices).pixels)
    assert kept(data) <= LIMIT


def read_all(url, cache, seed, queue):
    data = StreamData(root=url, **{**STREAM, "seed": seed, "cache_dir": cache, "cache_gb": LIMIT / 1e9})
    data.setup()
    queue.put(sum(int(raw.pixels.sum(dtype=torch.int64)) for raw in data.train_dataloader()))


def test_processes_that_delete_each_others_shards_still_read_the_right_images(stream, shards, tmp_path):
    held = stream().splits["train"].take(torch.arange(72)).pixels
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    arguments = [(f"file://{shards}", str(tmp_path / "c"), seed, queue) for seed in range(4)]
    processes = [context.Process(target=read_all, args=each) for each in arguments]
    for process in processes:
        process.start()
    assert [queue.get(timeout=60) for _ in processes] == [int(held.sum(dtype=torch.int64))] * 4
    for process in processes:
        process.join()


def test_a_damaged_or_truncated_download_is_repeated(stream, shards):
    data = stream(f"file://{shards}")
    expected = data.batch("val", torch.arange(24)).input
    cut, changed, *_ = data.store.folder.glob("*.npy")
    cut.write_bytes(b"short")
    content = bytearray(changed.read_bytes())
    content[-100] ^= 1
    changed.write_bytes(content)
    (data.store.folder / "part").write_bytes(b"left by a killed process")
    assert torch.equal(stream(f"file://{shards}").batch("val", torch.arange(24)).input, expected)
    assert not (data.store.folder / "part").exists()


def test_other_shards_under_the_same_url_are_downloaded(stream, memory, copied, tmp_path):
    stream(f"file://{copied}").batch("train", torch.arange(72))
    shutil.rmtree(copied)
    other = write_scenes(tmp_path / "other", seed=5)
    write_shards(SARData(root=str(other), **SAR), copied, 7)
    assert_equal(stream(f"file://{copied}"), memory(other))


@pytest.mark.parametrize("url", [False, True])
def test_a_split_can_be_sent_to_a_spawned_worker(stream, shards, url):
    data = stream(f"file://{shards}" if url else shards)
    next(iter(data.train_dataloader()))  # files are open, and downloads are running
    split = data.splits["train"]
    sent = pickle.loads(pickle.dumps(split))
    assert same(sent.take(torch.arange(9)), split.take(torch.arange(9)))


# Usage errors


def test_a_folder_that_contains_no_shards_is_reported_in_one_line(stream, copied, tmp_path):
    assert error_of(stream, tmp_path / "none").startswith(f"data.root={tmp_path}/none: no such folder; expected a")
    (tmp_path / "empty").mkdir()
    assert f"data.root={tmp_path}/empty: no {INDEX} in it" in error_of(stream, tmp_path / "empty")
    index = copied / INDEX
    whole = json.loads(index.read_text())
    for content, why in (
        ("{", "damaged (JSONDecodeError"),
        ("[]", "damaged"),
        (json.dumps(whole | {"format": 1}), "format 1, this version reads 2"),
        (json.dumps({key: value for key, value in whole.items() if key != "shards"}), "damaged (KeyError: 'shards')"),
    ):
        index.write_text(content)
        assert why in error_of(stream, copied)
    index.unlink()
    index.mkdir()
    assert f"no {INDEX} in it" in error_of(stream, copied)


def test_settings_that_differ_from_the_shards_are_reported_in_one_line(stream, shards):
    assert error_of(stream, image_size=32) == "data.image_size=32: the shards have 16; expected data.image_size=16"
    assert error_of(stream, channels=3) == "data.channels=3: the shards have 1; expected data.channels=1"
    assert error_of(stream, resident=True).startswith("data.resident=true: ")
    assert error_of(stream, target="clean").startswith("data.target=clean: these shards have no references")
    assert error_of(stream, f"file://{shards}", cache_gb=1e-6).startswith("data.cache_gb=1e-06: three windows of")


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("url", [False, True])
def test_a_damaged_truncated_or_missing_shard_is_reported_in_one_line(stream, copied, workers, url):
    root = f"file://{copied}" if url else copied
    path = copied / "train" / "00003.npy"
    content = path.read_bytes()
    for damage, why in (
        (lambda: path.write_bytes(content[:-1]), "bytes instead of"),
        (lambda: path.write_bytes(content[:-1] + b"x"), "not the content that was written"),
        (path.unlink, "cannot be downloaded" if url else "cannot be read: No such file"),
    ):
        damage()
        line = error_of(lambda: list(stream(root, num_workers=workers).train_dataloader()))
        assert "00003.npy" in line
        assert why in line


def test_a_shard_that_disappears_while_it_is_closed_is_reported_in_one_line(stream, copied):
    split = stream(copied, shuffle_shards=1).splits["train"]
    split.take(torch.arange(72))  # only two of eleven shards remain open
    shutil.rmtree(copied / "train")
    assert "00000.npy: damaged (cannot be read: No such file" in error_of(split.take, torch.arange(7))


def test_an_unreadable_url_is_reported_in_one_line(stream, tmp_path, monkeypatch):
    line = error_of(stream, f"file://{tmp_path}/none")
    assert f"data.root=file://{tmp_path}/none: {INDEX} cannot be downloaded" in line
    assert "(Protocol not known: xyz); expected the URL of a folder of shards" in error_of(stream, "xyz://host/x")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    assert "pip install 'saaae[stream]'" in error_of(stream, "s3://bucket/x")

    def unreachable(url):
        random.random()
        raise ConnectionError("no answer\nfrom host")

    monkeypatch.setattr(fsspec, "url_to_fs", unreachable)
    before = random.getstate()
    assert "index.json cannot be downloaded (no answer from host)" in error_of(stream, "s3://bucket/x")
    assert random.getstate() == before


@pytest.mark.skipif(not importlib.util.find_spec("s3fs"), reason="s3fs is not installed: pip install 'saaae[stream]'")
def test_an_object_store_that_does_not_respond_is_reported_in_one_line(stream, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert "index.json cannot be downloaded (Could not connect" in error_of(stream, "s3://bucket/x")


def test_an_unwritable_cache_is_reported(stream, shards, tmp_path):
    (tmp_path / "file").write_text("")
    assert error_of(stream, f"file://{shards}", cache_dir=str(tmp_path / "file")).startswith("cache_dir=")


# The writer


@pytest.mark.parametrize("shard_images", [1, 5, 72, 1000])
def test_shards_of_any_size_have_all_images_in_order(scenes, stream, tmp_path, shard_images):
    index = write_shards(SARData(root=str(scenes), **SAR), tmp_path / "shards", shard_images)
    counts = [shard.images for shard in index.shards["train"]]
    assert counts[:-1] == [shard_images] * (len(counts) - 1)
    assert 0 < counts[-1] <= shard_images
    a, b = (data.splits["train"].take(torch.arange(72)) for data in (stream(tmp_path / "shards"), stream()))
    assert same(a, b)


def test_an_interrupted_writer_leaves_no_folder_and_a_killed_one_no_complete_folder(
    scenes, stream, tmp_path, monkeypatch
):
    folder, part, again = tmp_path / "new", tmp_path / "new.part", FolderData.again

    def interrupted(data):
        for number, arrays in enumerate(again(data)):
            if number == 9:
                assert list(part.glob("*/*.npy"))
                assert f"no {INDEX} in it" in error_of(stream, part)
                raise KeyboardInterrupt
            yield arrays

    monkeypatch.setattr(FolderData, "again", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_shards(SARData(root=str(scenes), **SAR), folder, 7)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    (part / "train").mkdir(parents=True)
    (part / "train" / "00099.npy").write_bytes(b"left by a kill")
    write_shards(SARData(root=str(scenes), **SAR), folder, 7)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    assert not list(folder.rglob("00099.npy"))
    assert "exists already" in error_of(write_shards, SARData(root=str(scenes), **SAR), folder, 7)


def test_a_file_that_changes_while_it_is_read_is_reported(tmp_path, monkeypatch):
    root = write_scenes(tmp_path / "scenes")
    again = FolderData.again

    def changed(data):
        Image.new("L", (50, 37)).save(root / "scene05_0.png")
        return again(data)

    monkeypatch.setattr(FolderData, "again", changed)
    line = error_of(write_shards, SARData(root=str(root), **SAR), tmp_path / "new", 7)
    assert "scene05_0.png: changed while it was being read" in line
    assert [path.name for path in tmp_path.iterdir()] == ["scenes"]


@pytest.mark.processes
def test_the_command_line_of_the_writer(zygote, scenes, shards, tmp_path):
    def write(*arguments):
        return zygote.run(tmp_path, *arguments, script="saaae/cli/shards.py")

    words = ["data=sar", f"data.root={scenes}", "data.image_size=16", "data.val_fraction=0.2", "data.test_fraction=0.2"]
    status, printed = write(*words, "to=deep/new", "shard_images=7")
    assert status == 0, printed
    assert "train         72 images     11 shards" in printed
    assert "python train.py data=stream data.root=deep/new data.image_size=16" in printed
    for path in (shards / INDEX, *shards.rglob("*.npy")):
        assert path.read_bytes() == (tmp_path / "deep" / "new" / path.relative_to(shards)).read_bytes()
    for arguments, line in (
        (words, "error: to: missing; expected to=<a new folder>"),
        ([*words, "to=deep/new"], "exists already"),
        (["data=mnist", "to=x"], "error: data: expected data=sar or data=folder"),
        ([*words, "to=x", "data.image_size=64"], "error: data.image_size=64: no image has so many rows"),
        ([*words, "too=x"], "error: too: no such key; did you mean to?"),
    ):
        status, printed = write(*arguments)
        assert (status, printed.count("\n")) == (2, 1), printed
        assert line in printed
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".")) == ["deep"]


def test_the_configuration_of_the_writer_is_valid(compose_config):
    from saaae.cli.shards import Shards
    from saaae.config.validation import config_errors
    from tests.test_config import GROUPS

    assert (CONF / "shards.yaml").is_file()
    cfg = compose_config("to=x", f"data.root={os.getcwd()}", name="shards")
    assert config_errors(cfg, Shards, GROUPS) == []


# Runs


RUN = [
    "data=stream", "data.image_size=16", "data.batch_size=2", "data.shuffle_shards=2", "model=vae",
    "model.encoder.widths=[8,8]", "threads=1", "trainer.log_every_n_steps=1", "optimizer.schedule=constant",
    "pictures.count=1", "corruption=gaussian", "trainer.max_epochs=2", "checkpoint.every_n_steps=5", "accelerator=cpu",
]  # fmt: skip


@pytest.mark.processes
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_killed_inside_an_epoch_ends_like_an_uninterrupted_run(zygote, tmp_path, shards, workers):
    words = [*RUN, f"data.root={shards}", f"data.num_workers={workers}"]
    status, printed = zygote.run(tmp_path, "name=whole", *words)
    assert status == 0, printed
    run = tmp_path / "outputs" / "broken"
    for step in (7, 43):
        child = zygote.start(tmp_path, "name=broken", *words)
        wait_until(lambda step=step: steps(run) >= step)
        child.send(signal.SIGKILL)
        child.wait()
    assert_continued_exactly(zygote, tmp_path)


@pytest.mark.processes
def test_a_run_on_damaged_shards_ends_with_a_one_line_error(zygote, tmp_path, copied):
    path = copied / "train" / "00003.npy"
    path.write_bytes(path.read_bytes()[:-1])
    for workers in (0, 1):
        words = [f"name=x{workers}", *RUN, f"data.root={copied}", f"data.num_workers={workers}"]
        status, printed = zygote.run(tmp_path, *words)
        assert status == 2, printed
        assert "Traceback" not in printed
        assert sum(line.startswith("error: ") for line in printed.splitlines()) == 1
        assert f"{path}: damaged" in printed


@pytest.mark.filterwarnings("ignore")
def test_training_sees_every_image_once_per_epoch(stream, tmp_path):
    model = Watch()
    L.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=tmp_path,
    ).fit(model, stream())  # fmt: skip
    seen = torch.cat([batch.indices for batch in model.seen["train"]]).view(2, 72)
    assert all(epoch.sort().values.tolist() == list(range(72)) for epoch in seen)
    assert not torch.equal(*seen)
    in_order = torch.cat([batch.indices for batch in model.seen["val"]])
    assert in_order.tolist() == [*range(24), *range(24)]
