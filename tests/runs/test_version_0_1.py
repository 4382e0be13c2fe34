"""A run folder of version 0.1 (weights without the prefix of the LightningModule) is still evaluated and continued."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from saaae.evaluation import test as results
from saaae.runs.folder import RunFolder
from saaae.runs.run import Run, resolve_config
from saaae.signals import Interruption
from saaae.training import devices, fit

STORED = Path(__file__).with_name("version_0_1")
AFTER_FOUR_EPOCHS = {"elbo": -67.14481, "kl": 0.02442581, "ssim": 0.02013665, "psnr": 10.18052}
"""Results of version 0.1 after `resume=... trainer.max_epochs=4`."""


@pytest.fixture
def old_run(tmp_path):
    return RunFolder(shutil.copytree(STORED, tmp_path / "run"))


def test_a_version_0_1_checkpoint_has_the_old_names():
    state = torch.load(STORED / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert all(name.split(".")[0] in ("encoder", "posterior", "decoder", "likelihood") for name in state)


def test_the_test_metrics_of_a_version_0_1_run_are_reproduced(old_run):
    cfg = resolve_config(old_run.config())
    fit.configure_process(cfg)
    model, data = fit.build(cfg)
    trainer = devices.make_trainer(cfg, old_run, logger=False)
    test = results.run_test(trainer, fit.lightning_module(model, data, cfg), data, old_run.best)
    assert test == pytest.approx(json.loads(old_run.metrics.read_text())["test"], rel=1e-4)


def test_a_continued_version_0_1_run_reproduces_its_numbers(old_run):
    cfg = old_run.config()
    cfg.trainer.max_epochs = 4
    fit.fit(Run(resolve_config(cfg), old_run, [], {"seed": 0}), Interruption())
    content = json.loads(old_run.metrics.read_text())
    assert content["train"]["steps"] == 16
    assert {name: content["test"][name] for name in AFTER_FOUR_EPOCHS} == pytest.approx(AFTER_FOUR_EPOCHS, rel=1e-4)
