"""How the jobs of a launch report their outcome, in any process."""

import pickle

import pytest

from saaae.cli import multirun
from saaae.cli.command import Command
from saaae.cli.jobs import DONE, FAILED, RUNNING, USAGE_ERROR, Launch, Outcome, exit_status
from saaae.cli.multirun import Task, summarize
from saaae.cli.train import TRAIN
from saaae.errors import Pruned, RunFailedError, UserError


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [([], 0), ([0, 0], 0), ([0, 2], 2), ([2, 1], 1), ([0, RUNNING], 1), ([143, 0], 1), ([2, RUNNING], 1)],
)
def test_the_exit_status_of_a_multirun_is_that_of_its_worst_job(statuses, expected):
    assert exit_status([Outcome(n, "x", status) for n, status in enumerate(statuses)]) == expected


def test_the_latest_report_of_a_job_counts_and_launches_are_separate(tmp_path):
    launch, other = Launch(tmp_path, "a", None), Launch(tmp_path, "b", None)
    for number in (10, 2):
        launch.record(Outcome(number, "x"))
    launch.record(Outcome(2, "x", FAILED, "why"))
    other.record(Outcome(1, "x", DONE))
    assert launch.outcomes() == [Outcome(2, "x", FAILED, "why"), Outcome(10, "x", RUNNING)]
    assert [outcome.state for outcome in launch.outcomes()] == ["failed", "lost"]
    launch.cleanup()
    assert launch.outcomes() == []
    assert other.outcomes() == [Outcome(1, "x", DONE)]


def test_a_task_can_be_sent_to_other_processes():
    task = Task(TRAIN)
    assert pickle.loads(pickle.dumps(task)).command == TRAIN


@pytest.mark.parametrize(
    ("error", "status", "why"),
    [
        (None, DONE, ""),
        (Pruned("after epoch 2"), DONE, "after epoch 2"),
        (UserError("x: no such key"), USAGE_ERROR, "x: no such key"),
        (RunFailedError("the loss is not finite"), FAILED, "the loss is not finite"),
        (ZeroDivisionError("a fault"), FAILED, "a fault"),
    ],
)
def test_a_job_reports_any_outcome(tmp_path, monkeypatch, capsys, error, status, why):
    def work(cfg):
        if error:
            raise error
        return 3.0

    class Config:
        class runtime:  # noqa: N801
            output_dir = str(tmp_path / "gone")

    monkeypatch.setattr(multirun.HydraConfig, "get", lambda: Config)
    value, *rest = Task(Command("train", object, lambda cfg, words: None, work))._answer(None)
    assert rest == [status, why]
    assert value == (None if error else 3.0)
    assert ("Traceback" in capsys.readouterr().err) == isinstance(error, ZeroDivisionError)


def test_the_command_to_repeat_a_sweep_keeps_its_config_folder(tmp_path, capsys):
    task = Task(Command("train", object, lambda cfg, words: None, lambda cfg: None))
    task.launch = Launch(tmp_path / "mine", "a", None)
    task.launch.record(Outcome(0, str(tmp_path / "mine" / "job"), DONE))
    assert summarize(task, ["model=own", "seed=0,1"], "my options") == DONE
    expected = "repeat       python train.py -m '--config-dir=my options' name=mine model=own seed=0,1\n"
    assert capsys.readouterr().out.endswith(expected)
