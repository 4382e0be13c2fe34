"""The deletion test and the latent codec, which evaluate a trained model besides its test metrics."""

import math

import numpy as np
import pytest
import torch

from saaae.evaluation.codec import rate_distortion
from saaae.evaluation.deletion import HIDDEN, deletion_test
from saaae.evaluation.table import findings
from saaae.evaluation.test import extra_evaluations
from saaae.metrics.image import reconstruction_quality
from tests.models.test_models import make, wrapped  # noqa: F401


def test_the_deletion_test_stores_plain_numbers_and_is_reproducible(make):  # noqa: F811
    for latent in ("model.latent_dim=6", "model.latent_channels=3"):
        model, data = make("model=saaae", latent)
        found = deletion_test(model, data)
        assert found == deletion_test(model, data)
        assert (found["images"], found["hidden_share"]) == (6, list(HIDDEN))
        assert all(len(found[key]) == len(HIDDEN) for key in found if key != "images")
        for important, random, difference in zip(
            found["ssim_lost_important"], found["ssim_lost_elsewhere"], found["difference"], strict=True
        ):
            assert difference == pytest.approx(important - random, abs=1e-9)
        for name, title in (("deletion_kl", "importance  "), ("deletion", "anchor      ")):
            (line,) = findings({"test": {}, name: found})
            assert line.startswith(f"{title} masking the 25% most important latent cells costs")
            assert line.endswith("95 % over 6 images)")


def test_a_model_without_importance_has_no_deletion_test(make):  # noqa: F811
    assert deletion_test(*make("model=vae", "posterior=low_rank")) is None
    assert deletion_test(*make("model=cbam_ae")) is None


@pytest.mark.parametrize(
    ("model", "latent", "expected"),
    [
        ("model=vae", "model.latent_channels=3", {"test", "deletion_kl"}),
        ("model=vae", "model.latent_dim=6", {"test"}),
        ("model=saaae", "model.latent_channels=3", {"test", "deletion", "deletion_kl"}),
        ("model=saaae", "model.latent_dim=6", {"test", "deletion"}),
        ("model=saaae_prior", "model.latent_channels=3", {"test", "deletion_kl"}),
    ],
)
def test_the_kl_of_each_cell_and_the_anchor_have_tests_of_their_own(make, model, latent, expected):  # noqa: F811
    module, data = make(model, latent)
    results = extra_evaluations(wrapped(module, data), data, {}, True)
    assert set(results) == expected
    if "deletion" in results:
        assert results["deletion"] == deletion_test(module, data, module.anchor)
    if "deletion_kl" in results:
        assert results["deletion_kl"] == deletion_test(module, data)


def test_hidden_cells_are_at_the_mean_of_the_prior(make):  # noqa: F811
    """With cells at m(w) nothing is lost by hiding those whose mean is m(w)."""
    for prior in ("hyper", "learned"):
        model, data = make("model=saaae_prior", "model.latent_channels=3", f"posterior.prior={prior}")
        encode = model.encode

        def at_the_prior(batch, encode=encode):
            q = encode(batch)
            q.mean = q.prior_mean
            return q

        model.encode = at_the_prior
        assert deletion_test(model, data)["ssim_lost_important"] == pytest.approx([0, 0, 0], abs=1e-6)


def test_deletion_separates_dimensions_that_matter_to_the_decoder(make):  # noqa: F811
    model, data = make("model=saaae", "model.latent_dim=6")
    weight = model.decoder.get_submodule(next(n for n, m in model.decoder.named_modules() if hasattr(m, "in_features")))
    with torch.no_grad():
        weight.weight[:, 1:] = 0  # only the first dimension reaches the image
        weight.weight[:, 0] *= 50
    real = model.importance
    for sign, lowest in ((1.0, 0.0), (-1.0, None)):
        model.importance = lambda posterior, s=sign: s * torch.tensor([1.0, 0, 0, 0, 0, 0]).expand_as(real(posterior))
        found = deletion_test(model, data)
        lost = found["ssim_lost_important"][0]
        assert abs(lost) > 1e-4 if lowest is not None else lost == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize("seen", [False, True])
def test_latents_with_an_anchored_prior_are_coded_with_what_the_decoder_takes(make, tmp_path, seen):  # noqa: F811
    sees = f"posterior.decoder_sees_w={str(seen).lower()}"
    module, data = make("model=saaae_prior", "model.latent_channels=3", sees)
    (fine,) = rate_distortion(module, data, [0.01], tmp_path)
    assert module.decoder_shape == (3 + 4 * seen, 8, 8)
    batch = data.batch("test", torch.arange(6))
    ssim = reconstruction_quality(module.eval()(batch), batch.target)["ssim"].mean()
    assert fine["ssim"] == pytest.approx(float(ssim.detach()), abs=0.01)


@pytest.mark.parametrize("model", ["vae", "cbam_ae", "cvae_onehot"])
def test_the_rate_is_the_file_size_and_finer_steps_cost_more_and_lose_less(make, tmp_path, model):  # noqa: F811
    module, data = make(f"model={model}")
    with torch.no_grad():  # latents of an untrained model hardly differ, so scale them up
        for parameter in module.posterior.parameters():
            parameter.mul_(20)
    coarse, fine = rate_distortion(module, data, [2.0, 0.01], tmp_path)
    for found in (coarse, fine):
        size = (tmp_path / f"codes-{found['step']:g}.bin").stat().st_size
        assert found["bytes"] == size
        assert found["bits_per_pixel"] == 8 * size / (data.num_images("test") * data.image_size**2)
    assert fine["bytes"] > coarse["bytes"]
    with torch.no_grad():
        batch = data.batch("test", torch.arange(data.num_images("test")))
        exact = module.eval()(batch)
    mse = float(((exact - batch.target) ** 2).mean())
    assert fine["mse"] == pytest.approx(mse, rel=1e-2)
    assert math.isfinite(coarse["ssim"])


def test_the_rate_of_a_conditional_model_includes_its_labels(make, tmp_path):  # noqa: F811
    model, data = make("model=cvae_onehot")
    model.num_classes, told = None, model.num_classes
    generate = model.generate
    model.generate = lambda z, label=None: generate(z, torch.zeros(len(z), dtype=torch.long))
    (without,) = rate_distortion(model, data, [0.5], tmp_path)
    model.num_classes, model.generate = told, generate
    (paid,) = rate_distortion(model, data, [0.5], tmp_path)
    bits = data.num_images("test") * np.log2(10)
    assert 8 * (paid["bytes"] - without["bytes"]) >= bits - 32  # the file consists of 32-bit words
