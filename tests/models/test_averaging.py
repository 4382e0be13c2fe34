import copy

import pytest
import torch
from torch import nn

from saaae.models.averaging import WeightAverage


def averaging(decay, dtype=torch.float32):
    """A layer, and the average of its weights."""
    torch.manual_seed(0)
    layer, average = nn.Linear(3, 2).to(dtype), WeightAverage(decay)
    average.begin(layer.named_parameters())
    return layer, average


def moved(layer):
    """Moves the weights as an optimizer does, in place."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter))


def saved(layer, average, **more):
    """What a file would hold: copies of now."""
    checkpoint = {"state_dict": layer.state_dict()} | more
    average.save(checkpoint)
    return copy.deepcopy(checkpoint)


def test_the_average_is_that_of_its_definition_with_a_warm_up():
    layer, average = averaging(0.5)
    expected = layer.weight.detach().double()
    for step in range(12):
        moved(layer)
        average.update()
        kept = min(0.5, (1 + step) / (10 + step))
        expected = kept * expected + (1 - kept) * layer.weight.detach().double()
    assert torch.allclose(saved(layer, average)["state_dict"]["weight"].double(), expected, atol=1e-6)


def test_weights_in_sixteen_bits_have_an_average_in_thirty_two():
    layer, average = averaging(0.999, torch.bfloat16)
    average.steps = 10**6
    before = saved(layer, average)["state_dict"]["weight"]
    moved(layer)
    average.update()
    after = saved(layer, average)["state_dict"]["weight"]
    assert after.dtype == torch.float32
    assert torch.allclose(after - before, 0.001 * (layer.weight.float() - before), atol=1e-6)
    assert not torch.equal(after, before)
    average.put_in()
    assert torch.equal(layer.weight, after.bfloat16())


def test_the_model_has_the_average_for_a_while_and_then_its_own_weights_again():
    layer, average = averaging(0.9)
    moved(layer)
    average.update()
    own = layer.weight.detach().clone()
    file = saved(layer, average, optimizer_states=[])
    average.put_in()
    assert torch.equal(layer.weight, file["state_dict"]["weight"])
    assert not torch.equal(layer.weight, own)
    meanwhile = saved(layer, average, optimizer_states=[])
    for key in ("state_dict", "training_weights"):
        assert torch.equal(meanwhile[key]["weight"], file[key]["weight"])
    average.take_out()
    assert torch.equal(layer.weight, own)
    assert torch.equal(file["training_weights"]["weight"], own)
    assert "training_weights" not in saved(layer, average)


def test_an_average_is_continued_from_a_checkpoint():
    layer, average = averaging(0.9)
    moved(layer)
    average.update()
    file = saved(layer, average, optimizer_states=[])
    content = {key: dict(value) if isinstance(value, dict) else value for key, value in file.items()}
    other, resumed = nn.Linear(3, 2), WeightAverage(0.9)
    resumed.load(content)
    other.load_state_dict(content["state_dict"])
    resumed.begin(other.named_parameters())
    assert torch.equal(other.weight, layer.weight)
    for model, mean in ((layer, average), (other, resumed)):
        torch.manual_seed(1)
        moved(model)
        mean.update()
    a, b = (saved(model, mean)["state_dict"] for model, mean in ((layer, average), (other, resumed)))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert resumed.steps == average.steps == 2


@pytest.mark.parametrize("frozen", ["weight", "bias"])
def test_frozen_parameters_and_buffers_are_those_of_the_model(frozen):
    layer = nn.BatchNorm1d(3)
    getattr(layer, frozen).requires_grad_(False)
    average = WeightAverage(0.9)
    average.begin(layer.named_parameters())
    moved(layer)
    layer.running_mean += 1
    average.update()
    file = saved(layer, average)["state_dict"]
    assert torch.equal(file[frozen], getattr(layer, frozen))
    assert torch.equal(file["running_mean"], layer.running_mean)
