"""Runs that start from the weights of another, and modules that are not trained."""

import json
import shutil

import pytest
import torch
from omegaconf import OmegaConf

from saaae.data.files import digest_of
from saaae.errors import UserError
from saaae.models.lightning import model_weights
from saaae.runs.folder import RunFolder
from saaae.runs.run import Run, resolve_config
from saaae.signals import Interruption
from saaae.training import fit
from saaae.training.build import build_errors
from tests.conftest import TINY

QUICK = ["model=vae", "logger=none", "callbacks=none", "optimizer.schedule=constant", "likelihood.sigma=0.1"]
MAP = ["model.latent_dim=null", "model.latent_channels=2"]


@pytest.fixture
def launch(compose_config, tmp_path):
    """Trains in tmp_path/<name>; a second launch of the same name continues."""

    def launched(name, *overrides):
        cfg = resolve_config(compose_config(*TINY, *QUICK, *overrides))
        folder = RunFolder(tmp_path / name)
        fit.fit(Run(cfg, folder, list(overrides), {"seed": 0}), Interruption())
        return folder

    return launched


def weights(path):
    return model_weights(torch.load(path, weights_only=True)["state_dict"])


def changed(a, b):
    """Names of the tensors in which two files differ, by more than a learning rate of 1e-30 does."""
    a, b = weights(a), weights(b)
    return {name for name in a if not torch.allclose(a[name], b[name], rtol=0, atol=1e-20)}


def record(folder):
    return json.loads(folder.metrics.read_text())["run"]["init_from"]


STILL = ["optimizer.lr=1e-30", "seed=1", "optimizer=adam"]
"""A run that leaves its weights as they are."""


def test_a_run_starts_from_the_best_weights_of_another_and_its_record_keeps_their_digest(launch):
    source = launch("source")
    tuned = launch("tuned", f"init_from={source.path}", *STILL)
    assert changed(source.best, tuned.last) == set()
    told = record(tuned)
    count = len(weights(source.best))
    assert told == {
        "path": str(source.best), "digest": digest_of(source.best), "tensors_taken": count, "tensors": count,
        "not_taken": [],
    }  # fmt: skip
    assert f"init_from    {count} of {count} tensors, from {source.best}" in tuned.log.read_text()
    assert "not taken" not in tuned.log.read_text()


def test_a_convolutional_model_starts_from_one_of_another_image_size(launch):
    source = launch("source", *MAP)
    tuned = launch("tuned", *MAP, f"init_from={source.last}", "data.image_size=64", *STILL)
    assert changed(source.last, tuned.last) == set()


def test_what_does_not_fit_is_listed_and_the_rest_is_taken(launch):
    source = launch("source")
    tuned = launch("tuned", f"init_from={source.path}", "model.latent_dim=6", *STILL)
    told = record(tuned)
    assert 0 < told["tensors_taken"] < told["tensors"]
    assert told["tensors_taken"] + len(told["not_taken"]) == told["tensors"]
    assert any(" there, " in line and line.startswith("posterior.") for line in told["not_taken"])
    assert f"not taken    {told['not_taken'][0]}" in tuned.log.read_text()
    same = {name for name in weights(source.best) if name.startswith("encoder.")}
    assert torch.equal(*(weights(path)[next(iter(same))] for path in (source.best, tuned.last)))


def test_many_misfits_are_listed_in_the_record_and_shortened_in_the_message(launch):
    source = launch("source", "model=saaae")
    tuned = launch("tuned", f"init_from={source.path}", "model.decoder.widths=[4,4]")
    reasons = record(tuned)["not_taken"]
    assert len(reasons) > 5
    assert any(line.endswith("(not in the model)") for line in reasons)
    assert f"{reasons[4]} and {len(reasons) - 5} more\n" in tuned.log.read_text()


def test_a_source_of_which_nothing_fits_is_refused_before_anything_changes(launch, compose_config, tmp_path):
    source = launch("source")
    other = ["model=cbam_ae", "model.encoder.widths=[4,4,4,4]", "model.decoder.widths=[4,4,4]"]
    with pytest.raises(UserError, match=r"best.ckpt: nothing in it fits this model, .*; expected weights of the same"):
        launch("tuned", f"init_from={source.path}", *other)
    assert not (tmp_path / "tuned").exists()
    cfg = resolve_config(compose_config(*TINY, *QUICK, f"init_from={source.path}", *other))
    assert "nothing in it fits this model" in build_errors([cfg])[0]  # before the first job of a sweep


def test_a_damaged_source_is_named(launch, tmp_path):
    source = launch("source")
    content = bytearray(source.best.read_bytes())
    content[len(content) // 2] ^= 0xFF
    source.best.write_bytes(content)
    with pytest.raises(UserError, match=r"best.ckpt: damaged \("):
        launch("tuned", f"init_from={source.path}")
    text = tmp_path / "text.ckpt"
    text.write_text("no weights")
    with pytest.raises(UserError, match="text.ckpt: not a readable checkpoint"):
        launch("tuned", f"init_from={text}")


def test_a_run_starts_from_an_exported_model(launch, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    source, exported = launch("source"), tmp_path / "exported"
    exported.mkdir()
    tensors = {name: value.contiguous() for name, value in weights(source.best).items()}
    safetensors.save_file(tensors, exported / "model.safetensors")
    tuned = launch("tuned", f"init_from={exported}", *STILL)
    assert changed(source.best, tuned.last) == set()
    (exported / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UserError, match="model.safetensors: not a readable safetensors file"):
        launch("other", f"init_from={exported}")


def test_a_run_that_goes_on_neither_needs_its_source_nor_starts_from_it_again(launch):
    source = launch("source")
    words = [f"init_from={source.path}", "freeze=[encoder]", "trainer.max_epochs=2"]
    straight = launch("straight", *words)
    launch("broken", *words, "trainer.max_steps=4")
    shutil.rmtree(source.path)
    resumed = launch("broken", *words)
    assert changed(straight.last, resumed.last) == set()
    assert record(resumed) == record(straight)
    assert "continued from step 4" in resumed.log.read_text()
    with pytest.raises(UserError, match="init_from=.*: no such run folder"):
        launch("new", *words)


def test_the_source_is_stored_as_an_absolute_path_and_makes_another_experiment(launch, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    launch("source")
    tuned = launch("tuned", "init_from=source")
    assert OmegaConf.load(tuned.record).init_from == str(tmp_path / "source")
    with pytest.raises(UserError, match="init_from: .*source there, None asked"):
        tuned.check_same_config(OmegaConf.merge(tuned.config(), {"init_from": None}))


@pytest.mark.parametrize("optimizer", ["adamw", "adam"])
def test_frozen_modules_keep_their_weights_and_all_others_are_trained(launch, optimizer):
    source = launch("source")
    tuned = launch("tuned", f"init_from={source.path}", "freeze=[encoder,decoder.start]", f"optimizer={optimizer}")
    names = changed(source.best, tuned.last)
    assert {name.partition(".")[0] for name in names} == {"posterior", "decoder"}
    assert not any(name.startswith(("encoder.", "decoder.start.")) for name in names)
    assert " M trained), latent" in tuned.log.read_text()
    state = torch.load(tuned.last, weights_only=True)["optimizer_states"][0]
    assert len(state["state"]) == len(state["param_groups"][0]["params"]) < len(weights(tuned.last))


def test_frozen_modules_stay_in_evaluation_mode(compose_config):
    from saaae.models.autoencoder import evaluating

    cfg = resolve_config(compose_config(*TINY, *QUICK))
    model, _ = fit.build(cfg)
    model.freeze(["encoder"])
    assert model.training
    assert not any(module.training for module in model.encoder.modules())
    with evaluating(model):
        assert not model.decoder.training
    assert model.decoder.training
    assert not any(module.training for module in model.encoder.modules())


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["encodr"], "freeze=encodr: no such module; did you mean encoder?"),
        (["xyz"], "freeze=xyz: no such module; expected encoder or posterior or decoder"),
        (["encoder", "posterior", "decoder"], r"freeze=\[encoder,posterior,decoder\]: nothing is left to train"),
        (["likelihood"], "freeze=likelihood: this module has no parameters"),
    ],
)
def test_a_choice_of_frozen_modules_that_makes_no_sense_is_refused(compose_config, names, reason):
    model, _ = fit.build(resolve_config(compose_config(*TINY, *QUICK)))
    with pytest.raises(UserError, match=reason):
        model.freeze(names)
