"""Each artificial latent problem is reported in the log once, within one epoch."""

import logging

import lightning as L
import pytest
import torch

from saaae.callbacks.latent_health import LatentHealth
from saaae.models.lightning import AutoencoderModule
from saaae.runs.run import resolve_config
from saaae.training.build import build
from tests.conftest import TINY


@pytest.fixture
def warnings_of(compose_config, monkeypatch):
    """Trains a VAE with four latent dimensions, modified by `plant`, and returns the messages of LatentHealth."""

    def found(plant, *overrides, epochs=2):
        lines = []
        handler = logging.Handler()
        handler.emit = lambda record: lines.append(record.getMessage())
        log = logging.getLogger("saaae")
        log.addHandler(handler)
        try:
            torch.manual_seed(0)
            model, data = build(resolve_config(compose_config(*TINY, "model=vae", "model.latent_dim=4", *overrides)))
            plant(model)
            L.Trainer(
                accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
                enable_model_summary=False, max_epochs=epochs, callbacks=[LatentHealth()], num_sanity_val_steps=0,
            ).fit(AutoencoderModule(model), data)  # fmt: skip
        finally:
            log.removeHandler(handler)
        return [line for line in lines if line.startswith("warning")]

    return found


def scale_head(head, weight, bias=0.0):
    def plant(model):
        linear = getattr(model.posterior.heads, head)[1]
        with torch.no_grad():
            linear.weight.mul_(weight)
            linear.bias.fill_(bias)

    return plant


FREEZE = "optimizer.lr=1e-12"


def test_a_collapsed_latent_is_reported_once(warnings_of):
    lines = warnings_of(scale_head("mean", 0.0), FREEZE)
    assert [line for line in lines if "collapsed latent" in line] == lines
    assert len(lines) == 1
    assert "none of 4 dimensions" in lines[0]


def test_an_exploded_latent_is_reported(warnings_of):
    lines = warnings_of(scale_head("mean", 1e5), FREEZE, epochs=1)
    assert len(lines) == 1
    assert "exploded latent: posterior means spread to" in lines[0]


def test_a_deterministic_latent_is_reported(warnings_of):
    def plant(model):
        scale_head("mean", 30.0)(model)
        scale_head("logvar", 0.0, -12.0)(model)

    lines = warnings_of(plant, FREEZE, epochs=1)
    assert len(lines) == 1
    assert "deterministic latent" in lines[0]


def test_the_collapse_caused_by_a_huge_beta_is_reported(warnings_of):
    lines = warnings_of(lambda model: None, "beta.value=100000", "optimizer.schedule=constant", epochs=12)
    assert any("collapsed latent" in line for line in lines)


def test_a_healthy_latent_gives_no_warning(warnings_of):
    assert warnings_of(scale_head("mean", 10.0), FREEZE) == []
