import multiprocessing
import os
import signal
import time

import pytest
import torch

from saaae.data.cache import cached
from saaae.errors import UserError


def build(writer):
    for i in range(3):
        writer.append("pixels", torch.full((2, 1, 4, 4), i, dtype=torch.uint8))
    writer.append("none", torch.zeros(0, 3))
    return {"why": "a test"}


def never(writer):
    raise AssertionError("built again")


def test_an_existing_cache_is_mapped_and_not_built_again(tmp_path):
    for builder in (build, never):
        cache = cached(str(tmp_path), "x", {"a": 1}, builder)
        assert cache.arrays["pixels"][:, 0, 0, 0].tolist() == [0, 0, 1, 1, 2, 2]
        assert cache.arrays["none"].shape == (0, 3)
        assert cache.notes == {"why": "a test"}


def test_another_key_has_a_separate_cache(tmp_path):
    cached(str(tmp_path), "x", {"a": 1}, build)
    with pytest.raises(AssertionError, match="built again"):
        cached(str(tmp_path), "x", {"a": 2}, never)


def test_writing_to_a_mapped_array_changes_no_file(tmp_path):
    cached(str(tmp_path), "x", {}, build).arrays["pixels"].fill_(9)
    assert cached(str(tmp_path), "x", {}, never).arrays["pixels"].max() == 2


def test_a_builder_that_fails_leaves_nothing(tmp_path):
    def fails(writer):
        build(writer)
        raise UserError("no")

    with pytest.raises(UserError, match="no"):
        cached(str(tmp_path), "x", {}, fails)
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".lock"]
    cached(str(tmp_path), "x", {}, build)


def slow_build(writer, log, started=None):
    writer.append("pixels", torch.ones(4, 2))
    with open(log, "a") as file:
        file.write("built\n")
    if started is not None:
        started.set()
    time.sleep(0.5 if started is None else 60)
    return {}


def use(folder, log, started=None):
    cached(folder, "x", {}, lambda writer: slow_build(writer, log, started))


def test_one_of_two_processes_builds_the_cache_and_both_read_it(tmp_path):
    log = tmp_path / "log"
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=use, args=(str(tmp_path / "c"), str(log))) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(30)
        assert process.exitcode == 0
    assert log.read_text() == "built\n"


def test_a_kill_while_the_cache_is_written_leaves_no_cache(tmp_path):
    context = multiprocessing.get_context("fork")
    started = context.Event()
    process = context.Process(target=use, args=(str(tmp_path), str(tmp_path / "log"), started))
    process.start()
    assert started.wait(30)
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    assert [path.suffix for path in tmp_path.iterdir() if path.is_dir()] == [".part"]
    assert len(cached(str(tmp_path), "x", {}, build).arrays["pixels"]) == 6
    assert [path.suffix for path in tmp_path.iterdir() if path.is_dir()] == [""]


@pytest.mark.parametrize("damage", ["no index", "half an index", "no array", "half an array"])
def test_a_damaged_cache_is_built_again(tmp_path, damage):
    cached(str(tmp_path), "x", {}, build)
    (path,) = tmp_path.glob("x-*/" + ("index.json" if "index" in damage else "pixels.bin"))
    content = path.read_bytes()
    path.unlink() if damage.startswith("no") else path.write_bytes(content[: len(content) // 2])
    assert len(cached(str(tmp_path), "x", {}, build).arrays["pixels"]) == 6
    assert path.read_bytes() == content


def test_remains_of_a_killed_process_are_removed_but_not_a_cache_being_built(tmp_path):
    from filelock import FileLock

    names = [f"{name}-{20 * '0'}" for name in ("old", "busy")]
    for name in (*names, "foreign"):
        (tmp_path / f"{name}.part").mkdir()
    with FileLock(tmp_path / f"{names[1]}.lock"):
        cached(str(tmp_path), "x", {}, build)
    assert sorted(path.stem for path in tmp_path.glob("*.part")) == [names[1], "foreign"]


def test_an_unwritable_folder_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cache_dir=.*file.*: cannot be used"):
        cached(str(tmp_path / "file"), "x", {}, build)


def test_the_default_is_the_users_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cached(None, "x", {}, build)
    assert list((tmp_path / "saaae").glob("x-*/index.json"))
