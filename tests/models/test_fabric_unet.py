import pytest
import torch

from saaae.errors import UserError
from saaae.models.fabric_unet import moments
from saaae.objectives.likelihood import ACTIVATIONS, INVERSES
from saaae.training.build import check_together
from saaae.training.checks import monitor_of
from saaae.types import Batch
from tests.models.test_models import make, trainer, wrapped  # noqa: F401


def batch_of(input, target):
    from saaae.rng import IndexedRandom

    indices = torch.arange(len(input))
    return Batch(input, target, indices, IndexedRandom(0, indices))


@pytest.fixture
def images():
    return 0.5 + 0.1 * torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))


def test_only_visible_changes_are_marked(make, images):  # noqa: F811
    module, _ = make("model=fabric_unet", "model.visible=0.5", "model.smoothing=0.0")
    std = moments(images)[1]
    target = images.clone()
    target[:2, :, 4:8, 6:9] += 0.6 * std[:2]
    target[2:, :, 4:8, 6:9] -= 0.4 * std[2:]
    changed = module.changed(batch_of(images, target))
    assert changed.flatten(1).sum(1).tolist() == [12, 12, 0, 0]
    assert (changed[:2, :, 4:8, 6:9] == 1).all()


def test_the_objective_weighs_restoring_and_marking_as_documented(make, images):  # noqa: F811
    words = ["model.changed_weight=2.0", "model.positive_weight=5.0", "model.smoothing=0.0", "model.visible=0.5"]
    module, _ = make("model=fabric_unet", *words)
    target = images.clone()
    target[:, :, 4:8, 6:9] += 0.1
    batch = batch_of(images, target)
    loss, _ = module.loss(batch, 0)
    seen = module.prepare(batch)
    restored, logit = module.outputs(module.encode(seen).mode, seen)
    mask = torch.zeros(4, 1, 32, 32)
    mask[:, :, 4:8, 6:9] = 1
    error = (1 + 2 * mask) * (restored - target).abs() / images.std((1, 2, 3), keepdim=True, correction=0)
    found = 5 * mask * torch.nn.functional.softplus(-logit) + (1 - mask) * torch.nn.functional.softplus(logit)
    torch.testing.assert_close(loss.loss, (error + found).flatten(1).sum(1).mean())
    torch.testing.assert_close(
        module.scores(seen, module.encode(seen))["marking"], found.mean((1, 2, 3)), rtol=1e-5, atol=1e-6
    )


def test_marks_do_not_depend_on_brightness_and_contrast(make, images):  # noqa: F811
    module, _ = make("model=fabric_unet")
    module.eval()
    darker = 0.1 + 0.3 * images
    marks = module.anomaly_map(batch_of(images, images))
    assert marks.shape == images.shape
    torch.testing.assert_close(module.anomaly_map(batch_of(darker, darker)), marks, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(
        module(batch_of(darker, darker)), 0.1 + 0.3 * module(batch_of(images, images)), rtol=1e-3, atol=1e-3
    )


def test_with_flips_marks_are_the_mean_over_mirror_images(make, images):  # noqa: F811
    module, _ = make("model=fabric_unet", "model.flips=true")
    marks = module.anomaly_map(batch_of(images, images))
    torch.testing.assert_close(module.anomaly_map(batch_of(images.flip(-1), images.flip(-1))), marks.flip(-1))
    torch.testing.assert_close(module.anomaly_map(batch_of(images.flip(-2), images.flip(-2))), marks.flip(-2))
    module.flips = False
    axes = ([], [-1], [-2], [-2, -1])
    alone = [module.anomaly_map(batch_of(images.flip(some), images.flip(some))).flip(some) for some in axes]
    torch.testing.assert_close(torch.stack(alone).mean(0), marks)
    assert not torch.allclose(alone[0], marks)
    module.flips = True
    restored, both = module.marked(batch_of(images, images))
    torch.testing.assert_close(restored, module(batch_of(images, images)))
    torch.testing.assert_close(both, marks)


def test_a_residual_adds_the_smoothed_change_that_the_model_makes(make, images):  # noqa: F811
    module, _ = make("model=fabric_unet", "model.smoothing=0.0")
    batch = batch_of(images, images)
    seen = module.prepare(batch)
    restored, logit = module.outputs(module.encode(seen).mode, seen)
    torch.testing.assert_close(module.anomaly_map(batch), logit)
    module.residual = 2.0
    change = (restored - images).abs() / images.std((1, 2, 3), keepdim=True, correction=0)
    torch.testing.assert_close(module.anomaly_map(batch), logit + 2 * change)


def test_a_flat_image_has_finite_marks(make):  # noqa: F811
    module, _ = make("model=fabric_unet")
    flat = torch.full((2, 1, 32, 32), 0.5)
    assert module.anomaly_map(batch_of(flat, flat)).isfinite().all()
    assert module.loss(batch_of(flat, flat), 0)[0].loss.isfinite()


def test_it_learns_to_mark_what_was_changed(make):  # noqa: F811
    module, data = make("model=fabric_unet", "corruption=occlusion", "optimizer.warmup_steps=0")
    batch = data.batch("train", torch.arange(12))
    before = module.scores(module.prepare(batch), module.encode(batch))["marking"].mean()
    trainer(max_steps=60).fit(wrapped(module, data), data)
    module.eval()
    after = module.scores(module.prepare(batch), module.encode(batch))["marking"].mean()
    assert after < 0.7 * before
    changed, marks = module.changed(batch) == 1, module.anomaly_map(batch)
    assert marks[changed].mean() > marks[~changed].mean()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_image_and_its_raw_values_belong_together(activation):
    image = torch.linspace(0.02, 0.98, 50)
    torch.testing.assert_close(ACTIVATIONS[activation](INVERSES[activation](image)), image)


def test_marking_may_choose_the_best_checkpoint_of_a_model_that_marks(make, compose_config):  # noqa: F811
    cfg = compose_config("checkpoint.monitor=val/marking")
    assert monitor_of(cfg, *make("model=fabric_unet")) == ("val/marking", "min")
    with pytest.raises(UserError, match="checkpoint.monitor=val/marking: this model marks nothing"):
        monitor_of(cfg, *make("model=vae"))


def test_a_vector_and_a_small_image_are_refused(make):  # noqa: F811
    with pytest.raises(UserError, match="a fabric_unet has a latent map"):
        make("model=fabric_unet", "model.latent_channels=null", "model.latent_dim=8")
    with pytest.raises(UserError, match="data.image_size=32: 5 model.encoder.widths halve it; expected a multiple"):
        make("model=fabric_unet", "model.encoder.widths=[8,8,8,8,8]")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model=vae", "model.latent_dim=4"], "data.crop=16: a latent vector is one of whole images"),
        (["model=vae", "model.latent_channels=2", "model.latent_dim=null"], "data.crop=18: expected a multiple of 4"),
    ],
)
def test_crops_that_a_model_cannot_take_are_refused(make, words, message):  # noqa: F811
    model, data = make(*words)
    data.crop = int(message.split(":")[0].rpartition("=")[2])
    with pytest.raises(UserError, match=message):
        check_together(model, data)
