"""Any logger of Lightning works; several at once; a missing package leaves no run folder behind."""

import csv
import json
from typing import ClassVar

import pytest
from lightning.pytorch.loggers import Logger

from saaae.errors import UserError
from tests.runs.test_runs import NARROW, launch  # noqa: F401

WORDS = [word for word in NARROW if word != "logger=none"]
CSV = "lightning.pytorch.loggers.CSVLogger"


class Remembering(Logger):
    """A logger that, like a server logger, continues the run with the given id."""

    started: ClassVar = []

    def __init__(self, save_dir, run_id=None):
        self.run_id = run_id
        self.params, self.metrics = {}, {}
        self.started.append(self)

    @property
    def experiment(self):
        self.run_id = self.run_id or f"run-{len(self.started)}"
        return self

    @property
    def name(self):
        return "remembering"

    @property
    def version(self):
        return self.run_id

    def log_hyperparams(self, params, *args, **kwargs):
        self.params |= params

    def log_metrics(self, metrics, step=None):
        self.metrics |= metrics


def csv_metrics(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return set(csv.DictReader(file).fieldnames)


def test_several_loggers_can_be_used_at_once(launch):  # noqa: F811
    folder = launch("a", *WORDS, "logger=[tensorboard,csv]")
    assert {"train/loss", "val/ssim", "hp/ssim"} <= csv_metrics(folder.path / "csv" / "version_0")
    assert list(folder.path.glob("events.out.tfevents*"))
    assert folder.curves.is_file()


def test_a_resumed_run_adds_a_csv_of_the_remaining_steps(launch):  # noqa: F811
    launch("a", *WORDS, "logger=csv", "optimizer.schedule=constant")
    first = (folder := launch("a", *WORDS, "logger=csv", "trainer.max_epochs=2")).path / "csv" / "version_0"
    assert {"train/loss"} <= csv_metrics(first)
    with (folder.path / "csv" / "version_1" / "metrics.csv").open(newline="") as file:
        assert min(int(row["step"]) for row in csv.DictReader(file) if row["step"]) >= 5


@pytest.mark.parametrize("partial", ["true", "false"])
def test_a_logger_can_be_added_without_an_option_file(launch, tmp_path, partial):  # noqa: F811
    node = f"+logger.mine={{_target_:{CSV},_partial_:{partial},save_dir:{tmp_path / 'logs'},name:x}}"
    launch("a", *NARROW, node)
    assert (tmp_path / "logs" / "x" / "version_0" / "metrics.csv").is_file()


def test_a_server_logger_continues_its_run(launch):  # noqa: F811
    word = f"+logger.mine._target_={__name__}.Remembering"
    folder = launch("a", *NARROW, word)
    first = Remembering.started[-1]
    assert json.loads((folder.path / ".hydra" / "loggers.json").read_text()) == {"mine": first.run_id}
    assert first.params["seed"] == 0
    assert "hp/ssim" in first.metrics
    launch("a", *NARROW, word, "trainer.max_epochs=2")
    assert Remembering.started[-1] is not first
    assert Remembering.started[-1].run_id == first.run_id


def test_a_missing_package_is_reported_in_one_line_and_leaves_no_folder(launch, tmp_path, monkeypatch):  # noqa: F811
    from lightning.pytorch.loggers import mlflow

    def missing(*_, **__):
        raise ModuleNotFoundError("Requirement 'mlflow>=1.0.0' not met.")

    monkeypatch.setattr(mlflow.MLFlowLogger, "__init__", missing)
    with pytest.raises(UserError, match=r"logger.mlflow: Requirement 'mlflow>=1.0.0' not met.*--extra mlflow"):
        launch("a", *WORDS, "logger=mlflow")
    assert not (tmp_path / "a").exists()
