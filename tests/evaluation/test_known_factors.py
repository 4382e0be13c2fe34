import pytest
import torch

from saaae.evaluation.disentanglement import disentanglement
from saaae.evaluation.test import extra_evaluations
from saaae.metrics.catalog import MEASURES
from saaae.posteriors.gaussian import DiagonalGaussian
from tests.models.test_models import make, wrapped  # noqa: F401

SPRITES = ["model=vae", "data=factors", "data.num_train=8", "data.num_val=4", "data.num_test=1500"]


def test_a_latent_of_the_factors_themselves_is_disentangled(make):  # noqa: F811
    model, data = make(*SPRITES, "model.latent_dim=7")
    data.setup()
    factors = data.factors("test").float()

    def encode(batch):
        """Of the last two dimensions the posterior means do not reach the threshold of an active one."""
        mean = torch.cat([factors[batch.indices], 0.02 * factors[batch.indices][:, :2]], 1)
        return DiagonalGaussian(mean, torch.zeros_like(mean))

    model.encode = encode
    results = extra_evaluations(wrapped(model, data), data, {"ssim": 0.5}, True)
    scores = results["disentanglement"]
    assert scores["factors"] == ["shape", "scale", "rotation", "x", "y"]
    assert set(scores) - {"factors"} == set(results["test"]) - {"ssim"} < set(MEASURES)
    for name in scores.keys() - {"factors"}:
        assert scores[name] == pytest.approx([1.0] * len(scores[name]), abs=0.1), name
        assert results["test"][name] == pytest.approx(sum(scores[name]) / len(scores[name]))


def test_only_vectors_of_data_with_factors_are_scored_on_all_images(make):  # noqa: F811
    model, data = make(*SPRITES, "model.latent_channels=2")
    data.setup()
    assert disentanglement(model, data) is None
    model, data = make("model=vae", "model.latent_dim=3")
    data.setup()
    assert disentanglement(model, data) is None
    model, data = make(*SPRITES, "model.latent_dim=3")
    data.setup()
    assert "disentanglement" not in extra_evaluations(wrapped(model, data), data, {}, False)
    assert disentanglement(model, data) == disentanglement(model, data)
