"""Execution of networks: equal results with less memory, unchanged weight names, no batch statistics."""

import pytest
import torch
from torch import nn

from saaae.networks.execution import keep_stage_inputs_only, stages_of
from tests.models.test_models import MODELS, make  # noqa: F401


def bytes_kept(module, batch):
    """Bytes that a training step keeps for the backward pass, without weights, and its loss."""
    kept, weights = {}, {p.untyped_storage().data_ptr() for p in module.parameters()}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(0)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        x_hat = module(batch)
    x_hat.sum().backward()
    return sum(kept.values()), x_hat.detach()


@pytest.mark.parametrize("model", MODELS)
def test_recomputed_stages_give_the_same_gradients_with_less_memory(make, model):  # noqa: F811
    module, data = make(f"model={model}")
    batch = data.batch("val", torch.arange(4))
    module.train()
    before, expected = bytes_kept(module, batch)
    gradients = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    names = list(module.state_dict())
    module.zero_grad()
    for network in module.networks:
        assert list(stages_of(network))
        keep_stage_inputs_only(network)
    after, found = bytes_kept(module, batch)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    for name, p in module.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(p.grad, gradients[name], rtol=0, atol=0)
    assert list(module.state_dict()) == names
    assert after < before


@pytest.mark.parametrize("model", MODELS)
def test_no_network_couples_the_images_of_a_batch_by_its_normalisation(make, model):  # noqa: F811
    module, _ = make(f"model={model}")
    assert not [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
