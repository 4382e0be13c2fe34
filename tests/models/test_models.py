"""Every model option trains on generated 32-pixel images, and the models have their documented properties."""

import lightning as L
import pytest
import torch

from saaae.errors import UserError
from saaae.layers.attention import AttentionLayer
from saaae.models.lightning import AutoencoderModule
from saaae.rng import GlobalRandom
from saaae.runs.run import resolve_config
from saaae.training.build import build, radar_scores
from saaae.visualization.figures import epoch_picture, final_pictures
from tests.conftest import CONF, TINY
from tests.data.test_mnist import write_archives

MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
LIKELIHOODS = sorted(path.stem for path in (CONF / "likelihood").glob("*.yaml"))
BETAS = sorted(path.stem for path in (CONF / "beta").glob("*.yaml"))
POSTERIORS = sorted(path.stem for path in (CONF / "posterior").glob("*.yaml"))
ATTENTIONS = sorted(path.stem for path in (CONF / "attention").glob("*.yaml"))
DIGITS = ["model.encoder.hidden=16", "model.decoder.start=8", "model.decoder.widths=[8,8]"]
FOUR = "model.encoder.widths=[8,8,8,8]"
SMALL = {
    "cbam_ae": [FOUR, "model.decoder.widths=[8,8,8]"],
    "cvae_onehot": DIGITS,
    "cvae_embedding": DIGITS,
    "denoising_vae": [*DIGITS, "corruption=blur", "data.target=clean"],
    "despeckler": ["model.encoder.widths=[8,8]", "model.encoder.blocks=[1,1]"],
    "aitex_vae": [FOUR, "model.decoder.start=8", "model.decoder.widths=[8]"],
    "fabric_unet": ["model.encoder.widths=[8,8,8]"],
}
"""Narrow networks for the model options that do not use the ResNet encoder and decoder."""


@pytest.fixture
def make(compose_config, tmp_path):
    def made(*overrides):
        model = next((o.removeprefix("model=") for o in overrides if o.startswith("model=")), "saaae")
        tiny = TINY
        if model.startswith("cvae"):
            if not (tmp_path / "mnist").is_dir():
                write_archives(tmp_path / "mnist")
            tiny = [o for o in TINY if not o.startswith("data")]
            tiny += ["data=mnist", f"data.root={tmp_path / 'mnist'}", "data.num_val=5", "data.batch_size=4"]
        cfg = resolve_config(compose_config(*tiny, *SMALL.get(model, []), *overrides))
        torch.manual_seed(cfg.seed)
        return build(cfg)

    return made


def trainer(**arguments):
    return L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, **{"max_steps": 2, **arguments},
    )  # fmt: skip


def wrapped(module, data):
    return AutoencoderModule(module, domain_scores=radar_scores if data.domain == "radar" else None)


def trains(module, data, precision="32-true"):
    """Trains one epoch and validates: all values are finite and every parameter has changed."""
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    run = trainer(precision=precision, max_steps=-1, max_epochs=1)
    run.fit(wrapped(module, data), data)
    assert all(torch.isfinite(p).all() for p in module.parameters())
    assert [n for n, p in module.named_parameters() if torch.equal(p, before[n])] == []
    assert torch.isfinite(run.callback_metrics["val/elbo" if module.is_variational else "val/ssim"])
    if module.is_variational and module.generates:
        size = module.num_dimensions
        assert module.sample(2, GlobalRandom()).numel() == 2 * size
    return run


@pytest.mark.parametrize(
    ("precision", "dtype", "close"), [("bf16-true", "bfloat16", 0.02), ("64-true", "float64", 1e-5)]
)
@pytest.mark.parametrize("model", MODELS)
def test_networks_compute_in_their_own_precision_and_everything_else_in_float32(make, model, precision, dtype, close):
    reference, data = make(f"model={model}")
    module, _ = make(f"model={model}", f"accelerator.precision={precision}")
    networks = [p for network in module.networks for p in network.parameters()]
    assert {str(p.dtype) for p in networks} == {f"torch.{dtype}"}
    others = {id(p) for p in module.parameters()} - {id(p) for p in networks}
    assert {p.dtype for p in module.parameters() if id(p) in others} <= {torch.float32}
    batch = data.batch("val", torch.arange(4))
    expected, found = reference.eval()(batch), module.eval()(batch)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=close, atol=close)
    assert module.state_dict().keys() == reference.state_dict().keys()
    run = trainer(max_steps=-1, max_epochs=1)
    run.fit(wrapped(module, data), data)
    assert all(torch.isfinite(p).all() for p in module.parameters())
    assert torch.isfinite(run.callback_metrics["val/elbo" if module.is_variational else "val/ssim"])


GENERATIVE = {"interpolations", "prior", "traversals"}
PICTURES = {
    "cbam_ae": {"interpolations", "gates"},
    "cvae_embedding": GENERATIVE | {"classes", "plane"},
    "cvae_onehot": GENERATIVE | {"classes", "plane"},
    "despeckler": set(),
    "fabric_unet": set(),
}
"""Pictures of the models whose set of pictures differs from that of a VAE."""


@pytest.mark.parametrize("model", MODELS)
def test_every_model_draws_its_pictures(make, model):
    module, data = make(f"model={model}")
    module.train()
    kl = torch.rand(torch.Size(module.latent_shape).numel())
    shown = dict(final_pictures(module, data, kl, "x", count=3))
    assert set(shown) == PICTURES.get(model, GENERATIVE) | {"reconstructions"}
    assert all(picture.dtype.name == "uint8" and picture.ndim == 3 for picture in shown.values())
    assert module.training  # unchanged


def test_the_anchor_of_vectors_and_maps_is_shown_with_the_injected_noise(make):
    for latent, shape in (("model.latent_dim=6", (4, 1, 1, 6)), ("model.latent_channels=3", (4, 1, 8, 8))):
        module, data = make("model=saaae", latent)
        batch = data.batch("test", torch.arange(4))
        posterior = module.eval().encode(batch)
        maps = module.maps(batch, posterior)
        assert maps["anchor"].shape == maps["injected noise (std)"].shape == shape
        assert ("importance" in maps) == (len(module.latent_shape) == 3)
        noise = posterior.variance.sqrt().view(4, -1, *shape[2:]).mean(1, keepdim=True)
        torch.testing.assert_close(maps["injected noise (std)"], noise)


@pytest.mark.parametrize("model", ["vae", "saaae", "saaae_prior"])
def test_the_importance_of_a_map_is_shown_as_a_share_of_its_highest_cell(make, model):
    module, data = make(f"model={model}", "model.latent_channels=3")
    batch = data.batch("test", torch.arange(4))
    posterior = module.eval().encode(batch)
    shown = module.maps(batch, posterior)["importance"]
    torch.testing.assert_close(shown.amax((1, 2, 3)), torch.ones(4))
    kl = posterior.kl_effective_per_dimension.view(4, 3, 8, 8).sum(1, keepdim=True)
    torch.testing.assert_close(shown, kl / kl.amax((2, 3), keepdim=True))


@pytest.mark.parametrize("seen", ["false", "true"])
@pytest.mark.parametrize("prior", ["hyper", "learned", "standard"])
@pytest.mark.parametrize("latent", ["model.latent_dim=6", "model.latent_channels=3"])
def test_every_prior_trains_draws_its_pictures_and_has_a_bound(make, prior, latent, seen):
    if prior != "hyper" and seen == "true":
        return
    module, data = make("model=saaae_prior", f"posterior.prior={prior}", latent, f"posterior.decoder_sees_w={seen}")
    trains(module, data)
    kl = torch.rand(torch.Size(module.latent_shape).numel())
    assert set(dict(final_pictures(module, data, kl, "x", count=3))) == GENERATIVE | {"reconstructions"}
    batch = data.batch("val", torch.arange(4))
    with torch.no_grad():
        assert module.importance_weighted_bound(batch, 3).isfinite().all()


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("model", MODELS)
def test_every_model_trains_with_every_likelihood_and_precision(make, model, likelihood, precision):
    overrides = [f"model={model}", f"likelihood={likelihood}"]
    if model == "despeckler" and likelihood == "bernoulli":
        pytest.skip("refused: a despeckler gives logs of intensity (tests/test_config.py)")
    if model == "despeckler":
        overrides.append("likelihood.activation=log_intensity")
    if likelihood == "speckle" and not model.startswith("cvae"):
        overrides.append("data.target=noisy")
    trains(*make(*overrides), precision)


@pytest.mark.parametrize("posterior", ["diagonal", "anchored", "anchored_prior", "low_rank"])
def test_a_despeckler_can_have_a_stochastic_latent(make, posterior):
    module, data = make("model=despeckler", f"posterior={posterior}", "model.latent_channels=3", "data.target=clean")
    assert module.latent_shape == (3, 8, 8)
    trains(module, data)


def test_features_shared_by_encoder_and_decoder_are_computed_once_with_equal_results(make):
    module, data = make("model=despeckler", "data.target=clean")
    module.decoder.last[0].weight.data.normal_()
    batch = data.batch("val", torch.arange(3))
    seen = module.prepare(batch)
    calls = []
    module.encoder.register_forward_hook(lambda *_: calls.append(1))
    apart = module.decode(module.encode(batch).mode, batch)
    assert len(calls) == 2
    assert torch.equal(module.decode(module.encode(seen).mode, seen), apart)
    assert len(calls) == 2
    assert torch.equal(module(batch), apart)
    assert len(calls) == 3


@pytest.mark.parametrize("latent", ["model.latent_dim=8", "model.latent_channels=3"])
@pytest.mark.parametrize("posterior", POSTERIORS)
def test_every_posterior_trains_on_vectors_and_maps_or_is_refused(make, posterior, latent):
    if (posterior, latent) == ("full_covariance", "model.latent_channels=3"):
        with pytest.raises(UserError, match="posterior=full_covariance: too large over a latent map"):
            make("model=vae", f"posterior={posterior}", latent)
    else:
        trains(*make("model=vae", f"posterior={posterior}", latent))


@pytest.mark.parametrize("model", ["vae", "cvae_onehot", "aitex_vae"])
@pytest.mark.parametrize("posterior", ["full_covariance", "low_rank"])
def test_correlated_posteriors_work_with_the_other_networks(make, model, posterior):
    trains(*make(f"model={model}", f"posterior={posterior}", "model.latent_dim=6"))


@pytest.mark.parametrize("placement", ["bottleneck", "encoder", "decoder", "all"])
@pytest.mark.parametrize("attention", [kind for kind in ATTENTIONS if kind != "none"])
def test_every_attention_trains_at_every_placement_and_can_be_drawn(make, attention, placement):
    model = ["vae", "cbam_ae"][len(attention) % 2]
    module, data = make(f"model={model}", f"attention={attention}", f"attention.placement={placement}")
    layers = [m for m in module.modules() if isinstance(m, AttentionLayer)]
    assert layers
    trainer(limit_val_batches=0, max_steps=3).fit(wrapped(module, data), data)
    assert all(torch.isfinite(p).all() for p in module.parameters())
    batch = data.batch("val", torch.arange(2))
    maps = module.eval().maps(batch, module.encode(batch))
    assert bool(maps) == (attention not in ("se", "eca"))
    for heat in maps.values():
        assert heat.shape[:2] == (2, 1)
        assert 0 <= heat.min() <= heat.max() <= 1.0001


def test_a_large_self_attention_is_rejected_with_cheaper_alternatives(make):
    with pytest.raises(UserError, match="attention=self: a 4096 x 4096 matrix"):
        make("model=vae", "data.image_size=128", "attention=self", "attention.placement=encoder")


def test_the_attention_autoencoder_rejects_sizes_that_its_decoder_cannot_restore(make):
    with pytest.raises(UserError, match=r"data.image_size=24: model.decoder.strides enlarge a latent map of side 3 16"):
        make("model=cbam_ae", "data.image_size=24", "model.latent_channels=8")


def test_a_conditional_model_rejects_data_without_classes(compose_config):
    cfg = resolve_config(compose_config(*TINY, "model=cvae_onehot"))
    with pytest.raises(UserError, match="these data have no classes; expected data=mnist"):
        build(cfg)


@pytest.mark.parametrize("model", ["cvae_onehot", "cvae_embedding"])
def test_the_class_reaches_encoder_and_decoder(make, model):
    module, data = make(f"model={model}")
    module.eval()
    batch = data.batch("val", torch.arange(4))
    other = batch._replace(label=(batch.label + 1) % 10)
    assert not torch.equal(module.encode(batch).mode, module.encode(other).mode)
    z = module.encode(batch).mode
    assert not torch.equal(module.decode(z, batch), module.decode(z, other))
    torch.testing.assert_close(module.generate(z, batch.label), module.decode(z, batch))


def test_images_of_a_chosen_class_are_generated(make):
    from saaae.evaluation.exports import check_exports

    def asked(label, code_steps=()):
        return {"generate": 4, "class": label, "code_steps": list(code_steps), "traversals": None}

    module, _ = make("model=cvae_onehot")
    module.eval()
    rng = [GlobalRandom() for _ in range(3)]
    torch.manual_seed(0)
    seven = module.sample(4, rng[0], 7)
    torch.manual_seed(0)
    z = rng[1].normal(torch.empty(4, 2))
    torch.testing.assert_close(seven, module.generate(z, torch.full((4,), 7)))
    check_exports(module, asked(9, [0.5]))
    with pytest.raises(UserError, match="class=10: expected 0 to 9"):
        check_exports(module, asked(10))
    for words in (["model=despeckler"], ["model=vae", "posterior=delta"]):
        with pytest.raises(UserError, match="generate: a .* has no prior to generate from"):
            check_exports(make(*words)[0], asked(None))
        with pytest.raises(UserError, match="traversals: a .* has no prior to traverse"):
            check_exports(make(*words)[0], asked(None) | {"generate": None, "traversals": 2})
    with pytest.raises(UserError, match="code_steps: the decoder of a Despeckler sees more than the code"):
        check_exports(make("model=despeckler")[0], asked(None, [1.0]) | {"generate": None})


def test_embeddings_support_thousands_of_classes():
    from saaae.layers.labels import LabelEmbedding, OneHot

    label = torch.tensor([0, 4999])
    assert OneHot(num_classes=5000)(label).argmax(1).tolist() == [0, 4999]
    assert LabelEmbedding(num_classes=5000, size=8)(label).shape == (2, 8)


def test_labels_are_dropped_only_in_training(make):
    module, data = make("model=cvae_onehot", "model.label_drop=0.5")
    batch = data.batch("train", torch.arange(15))
    assert module.condition(batch).sum() == 15
    seen = []
    real = module.vectors
    module.vectors = lambda label: seen.append(label) or real(label)
    trainer(limit_val_batches=0, max_steps=4).fit(wrapped(module, data), data)
    withheld = torch.cat(seen) == -1
    assert 0 < int(withheld.sum()) < len(withheld)
    for encoder, decoder in zip(seen[::2], seen[1::2], strict=True):
        assert torch.equal(encoder, decoder)  # the same dropped labels for both
    z = torch.zeros(2, 2)
    assert not torch.equal(module.generate(z), module.generate(z, torch.tensor([3, 3])))


def test_the_skip_path_sees_the_corrupted_image(make):
    skip = "model.skip={_target_:saaae.networks.convnet.SkipPath,_partial_:true,width:4,depth:1}"
    module, data = make("model=denoising_vae", skip)
    trains(module, data)
    assert not module.generates
    batch = data.batch("val", torch.arange(2))
    z = module.encode(batch).mode
    assert not torch.equal(module.decode(z, batch), module.decode(z, batch._replace(input=1 - batch.input)))


@pytest.mark.parametrize(
    ("model", "data", "widths"),
    [
        ("cvae_onehot", ["data=mnist"], [32, 64]),
        ("cbam_ae", ["data.image_size=256"], [64, 128, 256, 64]),
        ("aitex_vae", ["data.image_size=256"], [32, 64, 128, 256]),
    ],
)
def test_networks_have_the_published_shapes(compose_config, model, data, widths):
    from hydra.utils import instantiate

    module = instantiate(resolve_config(compose_config(f"model={model}", *data)).model, _convert_="all")
    strided = (m for m in module.encoder.modules() if isinstance(m, torch.nn.Conv2d) and m.stride == (2, 2))
    assert [m.out_channels for m in strided] == widths
    if model == "cbam_ae":
        assert module.latent_shape == (64, 16, 16)
    elif model == "cvae_onehot":
        assert module.encoder.hidden.in_features == 3136 + 10
        assert module.decoder.start[0].in_features == 2 + 10
    else:
        assert module.posterior.heads.mean[1].in_features == 65536
        assert module.decoder.start[0].out_features == 64 * 16 * 16


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_every_schedule_trains_with_every_optimizer(make, beta, optimizer):
    module, data = make(f"beta={beta}", f"optimizer={optimizer}", "model=vae")
    trainer(limit_val_batches=0).fit(wrapped(module, data), data)


def test_map_none_trains_to_the_weights_of_the_plain_vae(make):
    states = []
    for overrides in (["model=vae"], ["model=saaae", "posterior.map=none"]):
        module, data = make(*overrides)
        torch.manual_seed(1)
        trainer(limit_val_batches=0).fit(wrapped(module, data), data)
        states.append(module.state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_metrics_do_not_depend_on_the_batch_size(make):
    results = []
    for batch_size in (1, 4, 6):
        module, data = make(f"data.batch_size={batch_size}")
        results.append(trainer().test(wrapped(module, data), data, verbose=False)[0])
    for name, value in results[0].items():
        for other in results[1:]:
            assert other[name] == pytest.approx(value, rel=1e-5, abs=1e-5), name


def test_nats_are_per_image_for_any_image_size(make):
    """An uninformative decoder has the same bits per pixel at every size, so its nll is proportional to the pixels."""
    nll = {}
    for size in (32, 64):
        module, data = make("likelihood=gaussian", "likelihood.sigma=1.0", f"data.image_size={size}")
        torch.nn.init.zeros_(module.decoder.stages[-1][-1].weight)
        torch.nn.init.zeros_(module.decoder.stages[-1][-1].bias)
        nll[size] = trainer().test(wrapped(module, data), data, verbose=False)[0]["test/nll"]
    assert nll[64] / nll[32] == pytest.approx(4, rel=0.02)


def test_the_elbo_is_minus_nll_minus_the_effective_kl(make):
    module, data = make("posterior.kl=nominal")
    logged = trainer().test(wrapped(module, data), data, verbose=False)[0]
    test = {name.removeprefix("test/"): value for name, value in logged.items()}
    assert test["elbo"] == pytest.approx(-test["nll"] - test["kl_effective"], rel=1e-6)
    assert test["kl"] == pytest.approx(test["kl_nominal"], rel=1e-6)
    assert test["uncharged_nats"] == pytest.approx(test["kl_effective"] - test["kl"], rel=1e-4)


def test_a_deterministic_autoencoder_reports_no_elbo(make):
    module, data = make("posterior.map=full")
    test = trainer().test(wrapped(module, data), data, verbose=False)[0]
    assert not module.is_variational
    assert "test/elbo" not in test
    assert test["test/kl"] == 0


def test_the_clean_reference_is_scored_separately_if_it_is_not_the_target(make):
    module, data = make("data.target=noisy")
    test = trainer().test(wrapped(module, data), data, verbose=False)[0]
    assert test["test/psnr"] != test["test/psnr_clean"]
    module, data = make("data.target=clean")
    assert "test/psnr_clean" not in trainer().test(wrapped(module, data), data, verbose=False)[0]


def test_gradients_are_clipped_to_the_configured_norm(make):
    norms = []

    class Watch(L.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            norms.append(float(torch.nn.utils.get_total_norm([p.grad for p in module.parameters()])))

    module, data = make("optimizer.gradient_clip=0.5")
    trainer(limit_val_batches=0, callbacks=[Watch()]).fit(wrapped(module, data), data)
    assert norms == pytest.approx([0.5, 0.5], rel=1e-3)


def test_the_loss_curve_of_the_golden_run_is_unchanged(make):
    """Two seeded epochs; the numbers change only if the computation changes (the tolerance covers other CPUs)."""
    losses = []

    class Record(L.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            losses.append(float(outputs["loss"]))

    module, data = make("model=saaae", "optimizer.schedule=constant")
    torch.manual_seed(0)
    trainer(max_steps=-1, max_epochs=2, limit_val_batches=0, callbacks=[Record()]).fit(wrapped(module, data), data)
    assert losses == pytest.approx([165.666, 365.784, 147.759, 181.844, 244.103, 263.578], rel=1e-3)


def test_the_warning_about_a_nominal_loss_is_above_its_pictures(make):
    heights = []
    for kl in ("effective", "nominal"):
        module, data = make("model=saaae", f"posterior.kl={kl}")
        heights.append(epoch_picture(module, data, "test", 2, "title").shape[0])
    assert heights[1] > heights[0]


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_attention_is_read_in_the_precision_of_the_networks(make, precision):
    module, data = make("model=vae", "attention=cbam", f"accelerator.precision={precision}")
    batch = data.batch("val", torch.arange(2))
    gates = module.gates(batch)
    assert gates
    assert all(weights.dtype == torch.float32 for weights in gates.values())


def test_an_error_while_attention_is_read_leaves_no_hook(make, monkeypatch):
    module, data = make("model=vae", "attention=cbam")
    batch = data.batch("val", torch.arange(2))
    monkeypatch.setattr(AttentionLayer, "channel_gates", lambda self, x: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        module.gates(batch)
    assert not any(layer._forward_pre_hooks for layer in module.modules() if isinstance(layer, AttentionLayer))
