"""Commands that are repeated or resumed on finished and damaged runs, as real processes."""

import json
import shutil

import pytest
from omegaconf import OmegaConf

from saaae.cli.train import _check_longer
from saaae.errors import UserError
from saaae.runs.folder import RunFolder
from tests.conftest import TINY

WORDS = ["name=x", *TINY, "model=vae", "logger=none", "callbacks=none", "pictures.count=1"]


@pytest.fixture(scope="module")
def finished(zygote, tmp_path_factory):
    """The folder above outputs/x, a finished run of one epoch and three steps."""
    home = tmp_path_factory.mktemp("finished")
    status, printed = zygote.run(home, *WORDS)
    assert status == 0, printed
    return home


@pytest.fixture
def home(finished, tmp_path):
    """A copy of the finished run for one test."""
    return shutil.copytree(finished, tmp_path / "copy")


def files(home):
    run = home / "outputs" / "x"
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.mark.processes
def test_a_finished_run_without_its_last_checkpoint_is_unchanged(zygote, home):
    for name in ("last.ckpt", "previous.ckpt"):
        (home / "outputs/x/checkpoints" / name).unlink(missing_ok=True)
    before = files(home)
    status, printed = zygote.run(home, "resume=outputs/x", "trainer.max_epochs=2")
    assert (status, printed.count("\n")) == (2, 1), printed
    assert "outputs/x: its checkpoints/last.ckpt is missing, so the run cannot be continued" in printed
    assert files(home) == before
    status, printed = zygote.run(home, *WORDS)
    assert (status, printed) == (0, "outputs/x: finished already, nothing to do\n")


@pytest.mark.processes
def test_a_finished_run_cannot_be_shortened(zygote, home):
    before = files(home)
    status, printed = zygote.run(home, "resume=outputs/x", "trainer.max_steps=2")
    assert status == 2
    assert printed == "error: trainer.max_steps=2: the run has 3 steps already; expected more\n"
    assert files(home) == before


@pytest.mark.processes
def test_a_finished_run_with_damaged_results_is_tested_again_from_best_ckpt(zygote, home):
    metrics = home / "outputs/x/metrics.json"
    test = json.loads(metrics.read_text())["test"]
    metrics.write_text(metrics.read_text()[:200])
    status, printed = zygote.run(home, *WORDS)
    assert status == 0, printed
    assert "metrics.json: not readable (" in printed
    assert json.loads(metrics.read_text())["test"] == test


def stored(**limits):
    return OmegaConf.create({"trainer": {"max_epochs": 10, "max_steps": -1, "max_time": None} | limits})


@pytest.mark.parametrize(
    ("before", "now", "train", "reason"),
    [
        ({}, {"max_steps": 5}, (10, 40), "max_steps=5: the run has 40 steps already"),
        ({}, {"max_steps": 40}, (10, 40), "max_steps=40: the run has 40 steps already"),
        ({}, {"max_epochs": 9}, (10, 40), "max_epochs=9: the run has 10 epochs already"),
        ({}, {"max_steps": 80}, (10, 40), "max_epochs=10: the run has 10 epochs already"),
        ({"max_steps": 40}, {"max_epochs": 20, "max_steps": 40}, (10, 40), "max_steps=40: the run has 40 steps"),
        ({"max_time": "00:01:00:00"}, {"max_time": "00:00:59:00"}, (3, 12), "max_time=00:00:59:00: the run has had"),
        (
            {"max_time": "00:01:00:00"}, {"max_time": "00:01:00:00", "max_epochs": 20}, (3, 12),
            "max_time=00:01:00:00: the run has had",
        ),
    ],
)  # fmt: skip
def test_a_limit_that_leaves_nothing_to_train_is_refused(before, now, train, reason):
    results = {"train": dict(zip(("epochs", "steps"), train, strict=True))}
    with pytest.raises(UserError, match=f"trainer.{reason}.*; expected more"):
        _check_longer(stored(**now), stored(**before), results)


@pytest.mark.parametrize(
    ("before", "now", "train"),
    [
        ({}, {"max_epochs": 20}, (10, 40)),
        ({}, {"max_epochs": 20, "max_time": "00:00:10:00"}, (10, 40)),
        ({"max_steps": 5}, {"max_steps": -1, "max_epochs": 2}, (2, 5)),  # ended inside its second epoch
        ({"max_time": "00:01:00:00"}, {"max_time": "00:02:00:00"}, (3, 12)),
        ({"max_time": "00:01:00:00"}, {"max_time": "00:01:00:00", "max_epochs": 20}, (10, 40)),
        ({"max_time": "00:01:00:00"}, {"max_time": None}, (3, 12)),
    ],
)
def test_a_finished_run_can_be_extended(before, now, train):
    results = {"train": dict(zip(("epochs", "steps"), train, strict=True))}
    _check_longer(stored(**now), stored(**before), results)


def test_a_starting_run_has_no_checkpoint_yet(compose_config, tmp_path):
    from saaae.cli.evaluate import checkpoint_path

    folder = RunFolder(tmp_path / "x")
    folder.write_record(OmegaConf.create({}), [], {})
    cfg = compose_config(f"run={folder.path}", name="evaluate")
    with pytest.raises(UserError, match="x: no checkpoint yet; the first is written after the first epoch"):
        checkpoint_path(cfg)


def test_a_single_run_and_a_sweep_never_share_a_folder(tmp_path, zygote):
    quick = [*TINY, "callbacks=none", "logger=none", "trainer.max_steps=1"]
    assert zygote.run(tmp_path, *quick, "name=single")[0] == 0
    assert zygote.run(tmp_path, "-m", *quick, "seed=0,1", "name=sweep")[0] == 0
    before = {path for path in (tmp_path / "outputs").rglob("*")}
    status, printed = zygote.run(tmp_path, *quick, "name=sweep")
    assert (status, "name=sweep: outputs/sweep holds a sweep; choose another name" in printed) == (2, True)
    status, printed = zygote.run(tmp_path, "-m", *quick, "seed=0,1", "name=single")
    assert (status, "name=single: outputs/single holds a single run; choose another" in printed) == (2, True)
    assert {path for path in (tmp_path / "outputs").rglob("*")} == before
    job = next(path for path in (tmp_path / "outputs" / "sweep").glob("seed=0*"))
    status, printed = zygote.run(tmp_path, f"resume=outputs/sweep/{job.name}")  # as a shell completes it
    assert (status, "finished already" in printed) == (0, True)
