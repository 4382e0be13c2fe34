"""Sweeps whose jobs run in other processes, and studies that continue after their process was killed."""

import json
import signal
from pathlib import Path

import pytest

from tests.conftest import TINY
from tests.zygote import wait_until

pytestmark = pytest.mark.processes
SHORT = [*TINY, "model=vae", "callbacks=none", "logger=none", "pictures.count=1"]


def scores_of(sweep):
    """Test metrics of the jobs of a sweep, by the overrides that distinguish the jobs."""
    return {
        path.parent.name: json.loads(path.read_text())["test"] for path in sorted(Path(sweep).glob("*/metrics.json"))
    }


@pytest.mark.parametrize(
    "launchers",
    [
        [["hydra/launcher=parallel"], ["hydra/launcher=submitit_local", "hydra.sweeper.max_batch_size=2"]],
        [["hydra/launcher=gpus", "hydra.launcher.ray.remote.num_gpus=0"]],
    ],
    ids=["processes", "gpus"],
)
def test_launchers_give_the_same_results_as_sequential_jobs(zygote, tmp_path, monkeypatch, launchers):
    if launchers[0][0].endswith("gpus"):
        pytest.importorskip("ray", reason="the extra `gpus` is not installed")
        monkeypatch.setenv("RAY_worker_niceness", "0")  # the default is 15: takes hours if anything else runs
    sweep = ["-m", "seed=0,1", "trainer.val_check_interval=1,1000", *SHORT]
    status, printed = zygote.run(tmp_path, *sweep, "name=here")
    assert status == 2, printed
    sequential = scores_of(tmp_path / "outputs" / "here")
    assert len(sequential) == 2
    for launcher in launchers:
        sweeps = set((tmp_path / "outputs").glob("sweep-*"))
        # Without a name: the job processes must find the folder of the launching process.
        status, printed = zygote.run(tmp_path, *sweep, *launcher)
        assert status == 2, printed
        (folder,) = set((tmp_path / "outputs").glob("sweep-*")) - sweeps
        assert scores_of(folder) == sequential
        assert f"4 jobs in outputs/{folder.name}" in printed
        assert printed.count("failed     seed=") == 2
        assert "an epoch has 3 batches" in printed
        assert "leaderboard  outputs/sweep-" in printed
        assert not (folder / ".jobs").exists()

        status, printed = zygote.run(tmp_path, *sweep, *launcher, f"name={folder.name}")
        assert status == 2, printed
        assert printed.count("done       seed=") == 2


CBAM = ["model=cbam_ae", "model.encoder.widths=[8,8,8,8]", "model.decoder.widths=[8,8,8]"]
CONTINUED = "continued as another trial"
STUDY = [
    "-m", "hydra/sweeper=optuna", "optimizer.lr=tag(log,interval(1e-6,1e-1))", "hydra.sweeper.n_trials=8",
    "hydra.sweeper.sampler.n_startup_trials=3", "hydra.sweeper.pruner.n_startup_trials=2", *SHORT,
    "trainer.max_epochs=2",
]  # fmt: skip


def trials(tmp_path, name):
    """Parameters, states and values of the trials of a study, without trials that were continued as other trials."""
    import optuna

    storage = f"sqlite:///{tmp_path}/outputs/{name}/study.db"
    study = optuna.load_study(study_name=f"outputs/{name}", storage=storage)
    return [(t.params, t.state.name, t.values) for t in study.trials if CONTINUED not in t.user_attrs]


def test_a_killed_study_continues_exactly(zygote, tmp_path):
    status, printed = zygote.run(tmp_path, *STUDY, "name=whole")
    assert status == 0, printed
    whole = trials(tmp_path, "whole")
    states = [state for _, state, _ in whole]
    assert len(whole) == 8
    assert set(states) == {"COMPLETE", "PRUNED"}
    assert f"{states.count('COMPLETE')} trials done, {states.count('PRUNED')} pruned, 0 failed" in printed
    assert printed.count("\n  pruned     ") == states.count("PRUNED")
    best = max((trial for trial in whole if trial[1] == "COMPLETE"), key=lambda trial: trial[2])
    assert f"best         val/elbo {best[2][0]:.4f}   optimizer.lr={best[0]['optimizer.lr']}" in printed

    folder = tmp_path / "outputs" / "broken"
    child = zygote.start(tmp_path, *STUDY, "name=broken")
    wait_until(lambda: len(list(folder.glob("*/checkpoints/last.ckpt"))) == 4)  # it has reported its first epoch
    child.send(signal.SIGKILL)
    child.wait()
    status, printed = zygote.run(tmp_path, *STUDY, "name=broken")
    assert status == 0, printed
    assert trials(tmp_path, "broken") == whole
    assert zygote.run(tmp_path, *STUDY, "name=broken")[0] == 0  # nothing is left to do
    assert trials(tmp_path, "broken") == whole


def test_a_study_of_two_objectives_uses_validation_metrics(zygote, tmp_path):
    words = [word for word in STUDY if not word.startswith("hydra.sweeper.n_trials")]
    words += ["name=two", "objective=[val/ssim,val/kl]", "hydra.sweeper.n_trials=2"]
    status, printed = zygote.run(tmp_path, *words)
    assert status == 0, printed
    found = {trial[0]["optimizer.lr"]: trial[2] for trial in trials(tmp_path, "two")}
    for path in (tmp_path / "outputs" / "two").glob("*/metrics.json"):
        results = json.loads(path.read_text())
        lr = float(path.parent.name.partition("lr=")[2].rpartition("-")[0])
        assert found[lr] == [results["validation"]["val/ssim"], results["validation"]["val/kl"]]
    assert "best         val/ssim " in printed

    status, printed = zygote.run(tmp_path, *words, "objective=val/psnr")
    assert status == 2
    assert "a study with other objectives (val/ssim val/kl there, val/psnr asked); choose another name" in printed


def test_a_study_rejects_changes_that_make_its_trials_incomparable(zygote, tmp_path):
    words = [word for word in STUDY if not word.startswith("hydra.sweeper.n_trials")]
    one = ["hydra.sweeper.n_trials=1", "name=s"]
    assert zygote.run(tmp_path, *words, *one)[0] == 0
    for more, answer in [
        (
            ["data.looks=2"],
            "a study with other settings (none of these there, data.looks=2 asked); choose another name",
        ),
        (["objective=[]"], "objective=[]: expected a metric, or several"),
        (["seed=choice(0,1)", "hydra.sweeper.n_trials=3"], None),
        (["seed=choice(0,1,2)", "hydra.sweeper.n_trials=5"], "choose another name"),
        ([*CBAM, "name=other"], "objective=val/elbo: this model has no KL and no ELBO"),
    ]:
        without = [word for word in (*words, *one) if word.partition("=")[0] not in {m.partition("=")[0] for m in more}]
        status, printed = zygote.run(tmp_path, *without, *more)
        assert status == (2 if answer else 0), printed
        assert (answer or "") in printed
        assert "Traceback" not in printed
