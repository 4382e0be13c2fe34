import itertools

import pytest
import torch
import yaml
from hydra.utils import instantiate

from saaae.errors import UserError
from saaae.layers.attention import (
    AxialAttention,
    FullAttention,
    LinearAttention,
    LocalAttention,
    PositionAttention,
    SelfAttention,
)
from saaae.layers.gates import CBAM, EfficientChannelAttention, SpatialAttention, SqueezeExcitation
from saaae.layers.placement import Attention
from tests.conftest import CONF

KINDS = sorted(path.stem for path in (CONF / "attention").glob("*.yaml") if path.stem != "none")


def layer_of(kind, channels=16):
    return instantiate(yaml.safe_load((CONF / "attention" / f"{kind}.yaml").read_text())["layer"])(channels)


def awake(layer):
    """The layer with all weights random, so that no gate or gain has its initial value."""
    generator = torch.Generator().manual_seed(0)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, 0, 0.3, generator=generator)
    return layer


def features(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_tokens_are_weighted_by_the_shown_attention():
    layer, tokens = SelfAttention(8, 4), features(2, 10, 8)
    torch.testing.assert_close(layer(tokens), layer.weights(tokens) @ layer.value(tokens), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer.weights(tokens).sum(-1), torch.ones(2, 10))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 13), (1, 1), (16, 4)])
def test_an_untrained_layer_is_the_identity_at_any_size(kind, height, width):
    layer = layer_of(kind)
    x = features(2, 16, height, width)
    torch.testing.assert_close(layer(x), x, rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_trained_layer_changes_its_input_and_blocks_no_gradient(kind, dtype):
    layer, x = awake(layer_of(kind)).to(dtype), features(2, 16, 8, 8).to(dtype).requires_grad_()
    y = layer(x)
    assert y.shape == x.shape
    assert y.dtype == dtype
    assert not torch.equal(y, x)
    (y.float() ** 2).sum().backward()
    for name, parameter in layer.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name
    assert (x.grad != 0).float().mean() > 0.99


@pytest.mark.parametrize("kind", KINDS)
def test_an_untrained_layer_receives_a_gradient(kind):
    layer = layer_of(kind)
    (layer(features(2, 16, 8, 8)) ** 3).sum().backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in layer.parameters())


@pytest.mark.parametrize("kind", ["se", "eca", "spatial", "cbam"])
def test_gates_scale_by_the_shown_weights(kind):
    layer, x = awake(layer_of(kind)), features(2, 16, 6, 5)
    torch.testing.assert_close(layer(x), x * layer.weights(x))
    assert layer.weights(x).min() > 0


@pytest.mark.parametrize(("height", "width"), [(8, 8), (6, 10)])
@pytest.mark.parametrize("kind", ["self", "self_axial", "self_linear", "self_local"])
def test_self_attention_applies_the_shown_weights(kind, height, width):
    layer, x = awake(layer_of(kind)), features(2, 16, height, width)
    assert isinstance(layer, PositionAttention)
    q, k, v = layer.qkv(x)
    weights = layer.weights(x)
    if kind == "self_local":
        out = layer.attend(q, k, v)
        expected = weights @ layer.windows(v)
        ones = layer.windows(torch.ones_like(out)) > 0
        torch.testing.assert_close(layer.windows(out)[ones], expected[ones], rtol=1e-4, atol=1e-5)
    else:
        expected = (weights @ v.flatten(2, 3)).view(v.shape)
        torch.testing.assert_close(layer.attend(q, k, v), expected, rtol=1e-4, atol=1e-4)
    total = torch.full(weights.shape[:-1], 2.0 if kind == "self_axial" else 1.0)
    if kind == "self_local":
        total = ones[..., 0].float()
    torch.testing.assert_close(weights.sum(-1), total, rtol=1e-4, atol=1e-4)


def test_the_heat_of_local_attention_counts_real_queries_only():
    layer, x = awake(LocalAttention(8, num_heads=2, window=4)), features(1, 8, 6, 6)
    received = layer.weights(x).sum(3)[..., None]
    assert float(layer.unwindow(received, 6, 6).sum()) == pytest.approx(2 * 36, rel=1e-4)  # heads x queries


def test_linear_attention_is_finite_for_vanishing_features():
    layer = LinearAttention(8, num_heads=1)
    with torch.no_grad():
        layer.to_qkv.weight.fill_(-5.0)
    x = torch.full((1, 8, 4, 4), 3.0)
    assert torch.isfinite(layer(x)).all()
    assert torch.isfinite(layer.weights(x)).all()


def test_a_window_over_the_whole_map_is_full_attention():
    full, local = FullAttention(8, num_heads=2, allow_large=False), LocalAttention(8, num_heads=2, window=6)
    local.load_state_dict(awake(full).state_dict())
    x = features(2, 8, 6, 6)
    torch.testing.assert_close(local(x), full(x), rtol=1e-4, atol=1e-5)


def test_nothing_attends_to_another_window_or_to_padding():
    layer = awake(LocalAttention(8, num_heads=2, window=4))
    x = features(1, 8, 6, 6).requires_grad_()
    layer(x)[..., 4:, 4:].sum().backward()
    assert x.grad[..., 4:, 4:].abs().min() > 0
    assert x.grad[..., :4, :].abs().max() == x.grad[..., :, :4].abs().max() == 0


def test_axial_attention_sees_only_the_row_and_the_column():
    layer = awake(AxialAttention(8, num_heads=2))
    x = features(1, 8, 5, 6).requires_grad_()
    layer(x)[..., 2, 3].sum().backward()
    seen = x.grad.abs().amax((0, 1)) > 0
    expected = torch.zeros(5, 6, dtype=torch.bool)
    expected[2], expected[:, 3] = True, True
    assert torch.equal(seen, expected)


@pytest.mark.parametrize("kind", ["self", "self_axial", "self_linear"])
def test_self_attention_is_equivariant_to_allowed_permutations(kind):
    layer, x = awake(layer_of(kind)), features(1, 16, 6, 6)
    torch.testing.assert_close(layer(x.roll(2, 2)), layer(x).roll(2, 2), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer(x.transpose(2, 3)), layer(x).transpose(2, 3), rtol=1e-4, atol=1e-4)


def test_layers_have_the_published_number_of_parameters():
    count = {
        "se": SqueezeExcitation(128, reduction=16, pooling="avg"),
        "spatial": SpatialAttention(128, kernel_size=7),
        "eca": EfficientChannelAttention(128),
        "cbam": CBAM(128, reduction=16, kernel_size=7),
    }
    sizes = {name: sum(p.numel() for p in layer.parameters()) for name, layer in count.items()}
    assert sizes == {"se": 2048, "spatial": 98, "eca": 5, "cbam": 2048 + 98}
    assert FullAttention(8, num_heads=1, allow_large=False).weights(features(1, 8, 16, 16)).shape == (1, 1, 256, 256)


def test_narrow_layers_have_a_smaller_reduction():
    assert SqueezeExcitation(32, reduction=16, pooling="avg").squeeze.out_channels == 8
    assert SqueezeExcitation(64, reduction=16, pooling="avg").squeeze.out_channels == 4


def largest_tensor(layer, size):
    """Elements of the largest tensor that autograd keeps for the backward pass."""
    kept = []
    x = features(1, 8, size, size).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        layer(x)
    return max(kept)


@pytest.mark.parametrize(
    "layer",
    [
        LocalAttention(8, num_heads=1, window=8),
        AxialAttention(8, num_heads=1),
        LinearAttention(8, num_heads=1),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_cheap_attention_keeps_no_matrix_over_all_positions(layer):
    small, large = largest_tensor(layer, 16), largest_tensor(layer, 64)
    assert large <= 16 * small
    assert large < 64**4 / 8


def test_a_large_map_is_rejected_with_cheaper_alternatives_unless_allowed():
    with pytest.raises(UserError, match=r"attention=self: a 4096 x 4096 matrix.*self_local, self_axial or self_linear"):
        layer_of("self").check_size(64)
    layer_of("self").check_size(32)
    FullAttention(8, num_heads=1, allow_large=True).check_size(64)
    layer_of("self_axial").check_size(256)


def test_heads_must_divide_the_channels():
    with pytest.raises(UserError, match="num_heads=3: expected a divisor of the 16 channels"):
        FullAttention(16, num_heads=3, allow_large=False)


@pytest.mark.parametrize(
    ("placement", "place"),
    itertools.product(["none", "bottleneck", "encoder", "decoder", "all"], ["bottleneck", "encoder", "decoder"]),
)
def test_layers_are_at_the_chosen_placement(placement, place):
    attention = Attention(placement=placement, layer=lambda channels: SpatialAttention(channels, kernel_size=3))
    assert len(attention.at(place, 8, 8)) == int(placement in (place, "all"))
    assert Attention(placement=placement, layer=None).at(place, 8, 8) == []
