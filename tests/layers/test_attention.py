import torch

from saaae.layers.attention import SelfAttention


def test_the_fused_output_is_the_explicit_weights_times_the_values():
    torch.manual_seed(0)
    layer, tokens = SelfAttention(8, 4), torch.randn(2, 9, 8)
    torch.testing.assert_close(layer(tokens), layer.weights(tokens) @ layer.value(tokens))


def test_every_row_of_the_weights_sums_to_one():
    weights = SelfAttention(8, 4).weights(torch.randn(2, 9, 8))
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 9))
