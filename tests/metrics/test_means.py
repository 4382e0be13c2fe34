import pytest
import torch

from saaae.metrics.means import Means


def test_batches_of_any_size_give_the_mean_over_images():
    values = {"nll": torch.rand(11) * 1e4, "kl": torch.rand(11)}
    means = Means()
    for start, end in [(0, 4), (4, 8), (8, 11)]:
        means.update({name: value[start:end] for name, value in values.items()})
    found = means.compute()
    assert list(found) == ["nll", "kl"]
    for name, value in values.items():
        assert float(found[name]) == pytest.approx(float(value.double().mean()), rel=1e-12)
    means.reset()
    means.update({"kl": torch.ones(2)})
    assert {name: float(value) for name, value in means.compute().items()} == {"kl": 1.0}
