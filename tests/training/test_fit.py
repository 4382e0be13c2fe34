"""Errors that a run reports in one line, before its folder changes or without results."""

import pytest
from omegaconf import OmegaConf

from saaae.errors import RunFailedError, UserError, out_of_memory
from saaae.runs.folder import RunFolder
from saaae.runs.run import Run, resolve_config
from saaae.signals import Interruption
from saaae.training import fit
from saaae.training.memory import within_memory
from tests.conftest import TINY

QUICK = ["model=vae", "logger=none", "callbacks=none", "optimizer.schedule=constant"]


@pytest.fixture
def launch(compose_config, tmp_path):
    """Trains in tmp_path/run; a second call continues the run."""

    def launched(*overrides):
        cfg = resolve_config(compose_config(*TINY, *QUICK, *overrides))
        folder = RunFolder(tmp_path / "run")
        fit.fit(Run(cfg, folder, list(overrides), {"seed": 0}), Interruption())
        return folder

    return launched


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("EMAWeightAveraging", "best.ckpt would not hold the averaged weights that are validated; expected ema="),
        ("WeightAveraging", "best.ckpt would not hold the averaged weights"),
        ("LearningRateFinder", "search optimizer.lr with hydra/sweeper=optuna"),
        ("BatchSizeFinder", "search data.batch_size with hydra/sweeper=optuna"),
    ],
)
def test_callbacks_that_give_wrong_results_are_refused_before_anything_changes(launch, tmp_path, name, reason):
    with pytest.raises(UserError, match=f"callbacks.extra: {name} is not supported; {reason}"):
        launch(f"+callbacks.extra._target_=lightning.pytorch.callbacks.{name}")
    assert not (tmp_path / "run").exists()


def test_a_run_without_a_single_step_is_an_error_without_results(launch, tmp_path):
    with pytest.raises(RunFailedError, match="no optimizer step was made; expected a longer trainer.max"):
        launch("trainer.max_time=00:00:00:00")
    folder = RunFolder(tmp_path / "run")
    assert not folder.metrics.exists()
    assert not folder.best.exists()


def test_a_damaged_curve_is_reported_before_anything_changes(launch):
    folder = launch()
    folder.curves.write_bytes(b"\xff\xfe")
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"metrics.csv: not readable \("):
        launch("trainer.max_epochs=2")
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("setting", "part"),
    [("model.latent_dim=1000000000000", "model"), ("model.encoder.widths=[8,1000000000000]", "model"),
     ("data.num_train=1000000000000000", "data")],
)  # fmt: skip
def test_out_of_memory_during_construction_names_the_largest_setting(compose_config, setting, part):
    cfg = resolve_config(compose_config(*TINY, *QUICK, setting))
    shown = setting.replace("[8,", r"\[8, ").replace("]", r"\]")
    with pytest.raises(UserError, match=rf"^{part}: out of memory \(.*\); its largest setting is {shown}$"):
        fit.build(cfg)


def test_out_of_memory_during_training_is_reported_in_one_line(launch, monkeypatch):
    from saaae.models.lightning import AutoencoderModule

    def step(self, batch, batch_idx):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore lines")

    monkeypatch.setattr(AutoencoderModule, "training_step", step)
    with pytest.raises(RunFailedError, match=r"^out of memory \(CUDA out of memory. Tried .* GiB.\); a smaller data.b"):
        launch()


def test_other_errors_are_not_reported_as_out_of_memory():
    assert out_of_memory(RuntimeError("shapes do not match")) is None
    assert out_of_memory(MemoryError()) == "no details"
    with pytest.raises(RuntimeError, match="shapes"), within_memory(OmegaConf.create({}), "model"):
        raise RuntimeError("shapes do not match")
