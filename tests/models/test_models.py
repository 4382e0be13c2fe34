"""Every model file trains on generated 32-pixel images; the chain keeps its promises."""

import lightning as L
import pytest
import torch

from saaae.noise import TrainingNoise
from saaae.runs.fit import build
from saaae.runs.train import settle
from saaae.types import ImageModel
from tests.conftest import CONF, TINY

MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))


@pytest.fixture
def make(compose_config):
    def made(*overrides):
        cfg = settle(compose_config(*TINY, *overrides))
        torch.manual_seed(cfg.seed)
        return build(cfg)

    return made


def trainer(**arguments):
    return L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, **{"max_steps": 2, **arguments},
    )  # fmt: skip


@pytest.mark.parametrize("latent", ["model.latent_dim=4", "model.latent_channels=3"])
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("model", MODELS)
def test_every_model_trains_with_every_likelihood_latent_and_precision(make, model, likelihood, latent, precision):
    module, data = make(f"model={model}", f"likelihood={likelihood}", latent)
    assert isinstance(module, ImageModel)
    before = [p.detach().clone() for p in module.parameters()]
    run = trainer(precision=precision, max_steps=-1, max_epochs=1)
    run.fit(module, data)
    assert all(torch.isfinite(p).all() for p in module.parameters())
    assert all(not torch.equal(p, q) for p, q in zip(module.parameters(), before, strict=True))
    assert torch.isfinite(run.callback_metrics["val/elbo"])
    assert module.sample(2, TrainingNoise()).shape == (2, 1, 32, 32)


@pytest.mark.parametrize("beta", ["constant", "linear", "cyclical"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_every_schedule_trains_with_every_optimizer(make, beta, optimizer):
    module, data = make(f"beta={beta}", f"optimizer={optimizer}", "model=vae")
    trainer(limit_val_batches=0).fit(module, data)


def test_map_none_trains_to_the_weights_of_the_plain_vae(make):
    states = []
    for overrides in (["model=vae"], ["model=saaae", "posterior.map=none"]):
        module, data = make(*overrides)
        torch.manual_seed(1)
        trainer(limit_val_batches=0).fit(module, data)
        states.append(module.state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_metrics_do_not_depend_on_the_batch_size(make):
    results = []
    for batch_size in (1, 4, 6):
        module, data = make(f"data.batch_size={batch_size}")
        results.append(trainer().test(module, data, verbose=False)[0])
    for name, value in results[0].items():
        for other in results[1:]:
            assert other[name] == pytest.approx(value, rel=1e-5, abs=1e-5), name


def test_nats_are_per_image_whatever_the_image_size(make):
    """A decoder that knows nothing costs the same bits per pixel at every size, so its nll grows with the pixels."""
    nll = {}
    for size in (32, 64):
        module, data = make("likelihood=gaussian", "likelihood.sigma=1.0", f"data.image_size={size}")
        torch.nn.init.zeros_(module.decoder.stages[-1][-1].weight)
        torch.nn.init.zeros_(module.decoder.stages[-1][-1].bias)
        nll[size] = trainer().test(module, data, verbose=False)[0]["test/nll"]
    assert nll[64] / nll[32] == pytest.approx(4, rel=0.02)


def test_the_elbo_is_minus_nll_minus_the_effective_kl(make):
    module, data = make("posterior.kl=nominal")
    test = {k.removeprefix("test/"): v for k, v in trainer().test(module, data, verbose=False)[0].items()}
    assert test["elbo"] == pytest.approx(-test["nll"] - test["kl_effective"], rel=1e-6)
    assert test["kl"] == pytest.approx(test["kl_nominal"], rel=1e-6)
    assert test["uncharged_nats"] == pytest.approx(test["kl_effective"] - test["kl"], rel=1e-4)


def test_a_deterministic_autoencoder_reports_no_elbo(make):
    module, data = make("posterior.map=full")
    test = trainer().test(module, data, verbose=False)[0]
    assert not module.has_bound
    assert "test/elbo" not in test
    assert test["test/kl"] == 0


def test_the_clean_reference_is_scored_apart_when_it_is_not_the_target(make):
    module, data = make("data.target=noisy")
    test = trainer().test(module, data, verbose=False)[0]
    assert test["test/psnr"] != test["test/psnr_clean"]
    module, data = make("data.target=clean")
    assert "test/psnr_clean" not in trainer().test(module, data, verbose=False)[0]


def test_gradients_are_clipped_to_the_configured_norm(make):
    norms = []

    class Watch(L.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            norms.append(float(torch.nn.utils.get_total_norm([p.grad for p in module.parameters()])))

    module, data = make("optimizer.gradient_clip=0.5")
    trainer(limit_val_batches=0, callbacks=[Watch()]).fit(module, data)
    assert norms == pytest.approx([0.5, 0.5], rel=1e-3)


def test_the_loss_curve_of_the_golden_run_is_unchanged(make):
    """Two seeded epochs; the numbers move only with the mathematics (the tolerance covers other CPUs)."""
    losses = []

    class Record(L.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            losses.append(float(outputs["loss"]))

    module, data = make("model=saaae", "optimizer.schedule=constant")
    torch.manual_seed(0)
    trainer(max_steps=-1, max_epochs=2, limit_val_batches=0, callbacks=[Record()]).fit(module, data)
    assert losses == pytest.approx([165.666, 365.784, 147.759, 181.844, 244.103, 263.578], rel=1e-3)
