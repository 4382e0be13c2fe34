import torch

from saaae.metrics.per_image import PerImage


def test_the_summary_over_images_does_not_depend_on_the_batch_size():
    values = {"nll": torch.rand(11) * 1e4, "kl": torch.rand(11)}
    scores = PerImage()
    for start, end in [(0, 4), (4, 8), (8, 11)]:
        scores.update({name: value[start:end] for name, value in values.items()})
    found = scores.compute()
    assert list(found) == ["nll", "kl"]
    for name, value in values.items():
        torch.testing.assert_close(found[name], value.double(), rtol=0, atol=0)
    scores.reset()
    scores.update({"kl": torch.ones(2)})
    assert {name: value.tolist() for name, value in scores.compute().items()} == {"kl": [1.0, 1.0]}


def test_stored_values_are_detached():
    scores = PerImage()
    scores.update({"nll": torch.ones(2, requires_grad=True) * 2})
    assert not scores.compute()["nll"].requires_grad
