import json
import os
import subprocess
import sys
import time

import pytest

import saaae
from saaae.cli import console
from saaae.errors import UserError
from saaae.runs.folder import RunFolder
from saaae.runs.listing import removable
from saaae.runs.status import locked
from tests.conftest import ROOT, TINY
from tests.inference.test_trained_model import MAPS


@pytest.fixture
def outputs(stored_run, tmp_path, monkeypatch):
    """A finished run, one of a sweep that was killed, and one that failed at its start."""
    monkeypatch.chdir(tmp_path)
    write(stored_run(*TINY, *MAPS, name="outputs/done"), {"state": "done"}, elbo=-10.0, ssim=0.5)
    for name in ("last", "previous", "damaged"):
        (tmp_path / f"outputs/done/checkpoints/{name}.ckpt").write_bytes(bytes(2**20))
    write(stored_run(*TINY, *MAPS, "seed=1", name="outputs/sweep/a-1"), {"state": "running"})
    (tmp_path / "outputs/failed").mkdir()
    write(tmp_path / "outputs/failed", {"state": "failed", "why": "no"})
    (tmp_path / "outputs/link").symlink_to("done")
    return tmp_path / "outputs"


def write(path, status, **test):
    (path / "status.json").write_text(json.dumps({"since": "2026-01-01 00:00:00", "why": "", **status}))
    if test:
        results = {"test": test, "train": {"epochs": 3}, "run": {"commit": path.name, "versions": {"torch": "2"}}}
        (path / "metrics.json").write_text(json.dumps(results))


def saaae_script(capsys, *words):
    """Exit status, output and errors of the console script."""
    with pytest.raises(SystemExit) as stop:
        console.main(words)
    return stop.value.code, *capsys.readouterr()


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_runs_are_listed_with_their_state_and_metric(outputs):
    found = {run.folder.name: run for run in saaae.list_runs(outputs)}
    assert {name: run.state for name, run in found.items()} == {"done": "done", "a-1": "killed", "failed": "failed"}
    done = found["done"]
    assert (done.model, done.data, done.epochs, done.metric, done.value) == ("vae", "speckle", 3, "elbo", -10.0)
    assert done.size > 3 * 2**20
    assert found["failed"].why == "no"
    with locked(RunFolder(outputs / "sweep/a-1")):
        assert [run.state for run in saaae.list_runs(outputs / "sweep")] == ["running"]
    (outputs / "done/metrics.json").write_text("{")
    assert saaae.list_runs(outputs / "done")[0].state == "damaged"
    (outputs / "done/.hydra/config.yaml").write_text("a: [")
    assert saaae.list_runs(outputs / "done")[0].model == ""
    with pytest.raises(UserError, match="nothing: no such folder"):
        saaae.list_runs("nothing")


def test_the_table_of_runs_is_filtered_and_sorted(outputs, capsys):
    status, printed, _ = saaae_script(capsys, "runs")
    assert status == 0
    head, *rows, total = printed.splitlines()
    assert head.split()[:4] == ["run", "state", "model", "data"]
    assert [row.split()[0] for row in rows] == ["outputs/done", "outputs/failed", "outputs/sweep/a-1"]
    assert "elbo -10" in rows[0]
    assert total.startswith("3 runs, ")
    assert "1 run," in saaae_script(capsys, "runs", "outputs", "state=killed", "model=vae", "sort=size")[1]
    assert saaae_script(capsys, "runs", "model=va") == (
        2, "", "error: model=va: no run has it; expected one of vae; did you mean vae?\n"
    )  # fmt: skip
    assert "state=don: expected" in saaae_script(capsys, "runs", "state=don")[2]
    assert saaae_script(capsys, "runs", "nothing") == (2, "", "error: nothing: no such folder\n")


def test_the_difference_of_two_runs_is_that_of_settings_and_metrics(outputs, stored_run, capsys):
    write(stored_run(*TINY, *MAPS, "seed=1", name="outputs/b"), {"state": "done"}, elbo=-8.0, ssim=0.5, odd=None)
    status, printed, _ = saaae_script(capsys, "diff", "outputs/done", "outputs/b")
    assert status == 0
    rows = [line.split() for line in printed.splitlines()]
    assert ["seed", "0", "1"] in rows
    assert ["commit", "done", "b"] in rows
    assert ["elbo", "-10", "-8", "+2"] in rows
    assert not {"ssim", "odd", "name"} & {row[0] for row in rows if row}
    assert saaae_script(capsys, "diff", "outputs/b", "outputs/b")[1] == "equal settings\n\nequal test metrics\n"
    assert "sweep/a-1: no test metrics" in saaae_script(capsys, "diff", "outputs/b", "outputs/sweep/a-1")[1]
    assert saaae_script(capsys, "diff", "outputs/b", "outputs/c")[0] == 2


def test_cleaning_shows_first_and_never_loses_a_result(outputs, capsys):
    partial = outputs / "sweep/a-1/.metrics.json.x.part"
    partial.write_text("")
    before = files(outputs)
    status, printed, _ = saaae_script(capsys, "clean")
    assert status == 0
    assert "cannot then be extended" in printed
    assert "failed before a checkpoint" in printed
    assert "nothing was deleted, --yes deletes them" in printed
    assert "part" not in printed  # it may be of a process that is at work
    assert files(outputs) == before
    os.utime(partial, (time.time() - 7200,) * 2)
    assert "3.0 MB freed" in saaae_script(capsys, "clean", "--yes")[1]
    gone = {f"done/checkpoints/{name}.ckpt" for name in ("last", "previous", "damaged")}
    gone |= {"failed/status.json", "sweep/a-1/.metrics.json.x.part"}
    assert set(before) - set(files(outputs)) == gone
    assert saaae_script(capsys, "clean", "--yes") == (0, "nothing to delete\n", "")


def test_nothing_of_a_run_at_work_or_without_its_best_checkpoint_is_removable(outputs):
    with locked(RunFolder(outputs / "done")), locked(RunFolder(outputs / "failed")):
        assert removable(outputs) == []
    write(outputs / "done", {"state": "preempted"})  # its extension, which last.ckpt continues
    assert [item.run.name for item in removable(outputs)] == ["failed"]
    write(outputs / "done", {"state": "done"})
    (outputs / "done/checkpoints/best.ckpt").unlink()
    assert [item.run.name for item in removable(outputs)] == ["failed"]


def test_listing_imports_no_torch(outputs):
    code = (
        "import sys, saaae, saaae.cli.runs as r, saaae.cli.diff as d, saaae.cli.clean as c\n"
        "r.run(r.Runs()); d.run(d.Diff('outputs/done', 'outputs/sweep/a-1')); c.run(c.Clean())\n"
        "assert not {'torch', 'numpy'} & sys.modules.keys()"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, capture_output=True)
