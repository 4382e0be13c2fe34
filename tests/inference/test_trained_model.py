import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import saaae
from saaae.config.settings import plain
from saaae.errors import UserError
from saaae.inference.source import read_source
from saaae.rng import IndexedRandom
from tests.conftest import ROOT, TINY
from tests.models.test_models import DIGITS, SMALL

MAPS = ["model=vae", "model.latent_channels=2"]
CONVOLUTIONAL = {
    "vae": MAPS,
    "saaae": ["model=saaae", "model.latent_channels=2"],
    "local attention": [*MAPS, "attention=cbam"],
    "cbam_ae": ["model=cbam_ae", *SMALL["cbam_ae"]],
    "despeckler": ["model=despeckler", *SMALL["despeckler"], "data.target=clean"],
    "fabric_unet": ["model=fabric_unet", *SMALL["fabric_unet"]],
    "low_rank": [*MAPS, "posterior=low_rank"],
    "anchored_prior": [*MAPS, "posterior=anchored_prior"],
}


@pytest.fixture
def images():
    return torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))


def test_importing_the_package_imports_no_torch():
    code = "import sys, saaae; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT).stdout == "False\n"


def test_a_run_is_loaded_with_its_weights_configuration_and_metrics(stored_run, images):
    run = stored_run(*TINY, *MAPS)
    (run / "metrics.json").write_text(json.dumps({"test": {"ssim": 0.5}}))
    model = saaae.load(run)
    assert not model.training
    assert model.metrics == {"ssim": 0.5}
    assert model.config["model"]["latent_channels"] == 2
    assert model.domain == "radar"
    stored = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(stored[f"model.{name}"], value) for name, value in model.network.state_dict().items())
    batch = model.data().batch("test", torch.arange(3))
    assert torch.equal(model.reconstruct(batch.input), model.network.reconstruct(batch))
    assert not model.reconstruct(images).requires_grad


def test_every_form_of_image_gives_the_same_result(stored_run):
    model = saaae.load(stored_run(*TINY, *MAPS))
    levels = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    expected = model.reconstruct(torch.from_numpy(levels / 255.0)[None, None])
    forms = [levels, torch.from_numpy(levels), levels[None], levels[None, None], levels / 255.0,
             levels.astype(np.uint16) * 257, (levels / 255.0).astype(np.float32)]  # fmt: skip
    for form in forms:
        assert torch.allclose(model.reconstruct(form), expected, atol=1e-6)
        assert model(form).shape == (1, 1, 32, 32)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([1, 2], "a list; expected a numpy array or a tensor"),
        (np.zeros(5), r"shape \(5,\); expected \(H, W\), \(C, H, W\) or \(B, C, H, W\)"),
        (np.zeros((1, 32, 32, 1)), r"32 channels; expected 1, as \(B, C, H, W\); move the channels"),
        (np.zeros((32, 32), np.int64), "int64; expected uint8, uint16 or floats"),
        (np.full((32, 32), np.nan), "NaN or infinite"),
        (np.full((32, 32), 255.0), "values from 255 to 255; expected floats in"),
    ],
)
def test_images_that_do_not_fit_are_refused_in_one_line(stored_run, images, message):
    model = saaae.load(stored_run(*TINY, *MAPS))
    with pytest.raises(UserError, match=message):
        model.reconstruct(images)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_models_with_a_latent_map_take_images_of_any_size(stored_run, name):
    model = saaae.load(stored_run(*TINY, *CONVOLUTIONAL[name]))
    x = torch.rand(2, 1, 50, 37)
    assert model.reconstruct(x).shape == x.shape
    assert model.anomaly_map(x).shape == x.shape
    assert model.encode(torch.rand(1, 1, 48, 64)).mode.shape[2:] == (48 // model.stride, 64 // model.stride)
    with pytest.raises(UserError, match=f"50 x 37 pixels; expected sides that are multiples of {model.stride}"):
        model.encode(x)


def test_the_anomaly_map_of_a_model_that_marks_is_its_logit(stored_run, images):
    model = saaae.load(stored_run(*TINY, *CONVOLUTIONAL["fabric_unet"]))
    marks = model.anomaly_map(images, sigma=0.0)
    with torch.no_grad():
        assert torch.equal(marks, model.network.anomaly_map(model._batch(images, None)))
    assert marks.min() < 0  # no squared error


def test_models_with_a_latent_vector_name_their_size(stored_run):
    model = saaae.load(stored_run(*TINY, "model=vae", "model.latent_dim=4"))
    with pytest.raises(UserError, match="50 x 37 pixels; expected 32 x 32"):
        model.reconstruct(torch.rand(50, 37))
    assert model.encode(torch.rand(32, 32)).mode.shape == (1, 4)


def test_results_do_not_depend_on_the_batch_size(stored_run):
    model = saaae.load(stored_run(*TINY, *MAPS))
    x = torch.rand(5, 1, 32, 32)
    whole, split = (model.reconstruct(x, latents="sample", batch_size=size) for size in (5, 2))
    assert torch.allclose(whole, split, atol=1e-6)


def test_samples_are_a_function_of_the_seed(stored_run):
    model = saaae.load(stored_run(*TINY, *MAPS))
    first = model.sample(2, seed=1)
    assert first.shape == (2, 1, 32, 32)
    assert torch.equal(first, model.sample(2, seed=1))
    assert not torch.equal(first, model.sample(2, seed=2))
    with torch.no_grad():
        assert torch.equal(first, model.network.sample(2, IndexedRandom(1, torch.arange(2))))
    with pytest.raises(UserError, match="label=3: a VAE has no classes"):
        model.sample(2, label=3)


def test_a_conditional_model_wants_classes(stored_run):
    digits = ["data=mnist", f"data.root={ROOT}", "model=cvae_onehot", *DIGITS, "accelerator=cpu"]
    model = saaae.load(stored_run(*digits))
    x = torch.rand(2, 1, 28, 28)
    assert torch.equal(model.reconstruct(x, 3), model.reconstruct(x, [3, 3]))
    assert model.sample(2, label=3).shape == x.shape
    for label, message in (
        (None, "the class of each image, 0 to 9"),
        (10, "from 0 to 9"),
        ([1, 2, 3], "one class, or 2"),
    ):
        with pytest.raises(UserError, match=message):
            model.reconstruct(x, label)
    with pytest.raises(UserError, match="label=10: expected 0 to 9"):
        model.sample(2, label=10)


def test_importance_is_the_kl_of_each_cell_and_the_anchor_that_of_the_posterior(stored_run, images):
    saaae_model = saaae.load(stored_run(*TINY, *CONVOLUTIONAL["saaae"]))
    posterior = saaae_model.encode(images)
    assert torch.equal(saaae_model.anchor(images), posterior.anchor)
    plain = saaae.load(stored_run(*TINY, *MAPS, name="plain"))
    for model in (saaae_model, plain):
        importance, q = model.importance(images), model.encode(images)
        assert importance.shape == (len(q.mean), 1, *q.mean.shape[2:])
        torch.testing.assert_close(importance.flatten(1).sum(1), q.kl_effective)
    with pytest.raises(UserError, match="a VAE has no anchor"):
        plain.anchor(images)
    with pytest.raises(UserError, match="a VAE has no importance map with its posterior"):
        saaae.load(stored_run(*TINY, *MAPS, "posterior=low_rank", name="low_rank")).importance(images)


@pytest.mark.parametrize("seen", ["false", "true"])
def test_an_anchored_prior_is_loaded_with_all_that_it_can(stored_run, images, seen):
    latent = ["model.latent_dim=null", "model.latent_channels=3", f"posterior.decoder_sees_w={seen}"]
    model = saaae.load(stored_run(*TINY, "model=saaae_prior", *latent))
    assert model.reconstruct(images).shape == images.shape
    first = model.sample(2, seed=1)
    assert torch.equal(first, model.sample(2, seed=1))
    assert not torch.equal(first[0], first[1])
    assert model.importance(images).dim() == 4
    large = torch.rand(1, 1, 48, 80)
    assert model.reconstruct(large).shape == large.shape
    assert model.importance(large).shape[2:] == model.encode(large).mode.shape[2:]


def test_an_exported_folder_is_loaded_like_its_run(stored_run, images, tmp_path):
    run = stored_run(*TINY, *MAPS)
    source, folder = read_source(run), tmp_path / "exported"
    folder.mkdir()
    save_file(source.weights, folder / "model.safetensors")
    config = plain(source.config, resolve=True)
    (folder / "config.json").write_text(json.dumps({"saaae_format": 1, "config": config, "metrics": {"ssim": 0.5}}))
    model = saaae.load(folder)
    assert torch.equal(model.reconstruct(images), saaae.load(run).reconstruct(images))
    assert model.metrics == {"ssim": 0.5}
    with pytest.raises(UserError, match="an exported model has no data"):
        model.data()
    (folder / "config.json").write_text(json.dumps({"saaae_format": 2, "config": config, "metrics": {}}))
    with pytest.raises(UserError, match="format 2, this version reads 1"):
        saaae.load(folder)
    (folder / "config.json").write_text("{}")
    with pytest.raises(UserError, match="config.json: not readable"):
        saaae.load(folder)


def test_what_cannot_be_loaded_is_named_in_one_line(stored_run, tmp_path):
    run = stored_run(*TINY, *MAPS)
    cases = [
        (dict(path=tmp_path / "nothing"), "no such run folder"),
        (dict(path=tmp_path), "not a run folder"),
        (dict(path=run, checkpoint="last"), "last.ckpt: no such checkpoint; expected checkpoint=best"),
        (dict(path=run, checkpoint="first"), "expected best or last"),
        (dict(path=run / "config.yaml"), "not a readable checkpoint"),
        (dict(path=run, device="nonsense"), "device=nonsense: not available"),
        (dict(path=run, device="cuda:7"), "device=cuda:7: not available"),
    ]
    for arguments, message in cases:
        with pytest.raises(UserError, match=message):
            saaae.load(**arguments)
    assert saaae.load(run / "checkpoints" / "best.ckpt").image_size == 32


def test_a_downloaded_model_calls_nothing_that_is_not_trusted(stored_run):
    run = stored_run(*TINY, *MAPS)
    record = run / ".hydra" / "config.yaml"
    record.write_text(record.read_text().replace("saaae.models.vae.VAE", "os.system"))
    with pytest.raises(UserError, match="would call os.system, which is not part of saaae"):
        saaae.load(run)


def test_runs_from_before_the_gain_have_none(stored_run, images):
    run = stored_run(*TINY, *CONVOLUTIONAL["saaae"])
    expected = saaae.load(run).encode(images).variance
    for resolve in (False, True):
        config = plain(read_source(run).config, resolve=resolve)
        for node in (config["posterior"], config["model"]["posterior"]):
            if isinstance(node, dict):
                del node["gain"]
        content = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
        path = run / f"earlier-{resolve}.ckpt"
        torch.save(content | {"config": config}, path)
        assert torch.equal(saaae.load(path).encode(images).variance, expected)
