import pytest
import torch

from saaae.data.speckle_model import speckle_amplitude
from saaae.errors import UserError
from saaae.layers.placement import Attention
from saaae.networks.unet import LogUNetDecoder, LogUNetEncoder, log_planes
from saaae.rng import IndexedRandom

NONE = Attention(placement="none", layer=None)


def pair(size=32, channels=1, widths=(8, 12, 16), blocks=(1, 1, 2)):
    shape = (channels, size, size)
    common = {"image_shape": shape, "widths": [*widths], "blocks": [*blocks], "attention": NONE}
    encoder = LogUNetEncoder(window=5, **common)
    return encoder, LogUNetDecoder(latent_shape=encoder.output_shape, **common)


@pytest.mark.parametrize("looks", [1, 4, 10])
def test_an_untrained_network_is_a_boxcar_filter_without_bias(looks):
    encoder, decoder = pair(64)
    level = torch.full((64, 1, 64, 64), 0.3)
    noisy = speckle_amplitude(level, looks, 0.0, IndexedRandom(0, torch.arange(64)))
    seen = encoder(noisy)
    log_intensity = decoder(seen[-1], seen).detach()
    mean = torch.nn.functional.avg_pool2d(noisy**2, 5, 1, 2, count_include_pad=False)
    torch.testing.assert_close(log_intensity.exp(), mean)
    assert abs(float(log_intensity.double().exp().mean()) / 0.09 - 1) < 0.01


def test_the_local_mean_does_not_darken_the_border():
    _, log_mean = log_planes(torch.full((1, 1, 16, 16), 0.5), 5)
    torch.testing.assert_close(log_mean, torch.full((1, 1, 16, 16), 0.25).log())


def test_black_has_a_finite_logarithm():
    assert all(torch.isfinite(plane).all() for plane in log_planes(torch.zeros(1, 1, 16, 16), 5))


def test_every_level_reaches_the_output():
    encoder, decoder = pair()
    torch.nn.init.normal_(decoder.last[0].weight)
    seen = encoder(torch.rand(2, 1, 32, 32))
    assert [tuple(x.shape[1:]) for x in seen] == [(1, 32, 32), (8, 16, 16), (12, 8, 8), (16, 4, 4)]
    whole = decoder(seen[-1], seen)
    assert whole.shape == (2, 1, 32, 32)
    for changed in range(1, 3):
        other = [x + 1 if i == changed else x for i, x in enumerate(seen)]
        assert not torch.allclose(decoder(seen[-1], other), whole)
    assert not torch.allclose(decoder(seen[-1] + 1, seen), whole)
    assert torch.equal(decoder(seen[-1], [*seen[:-1], seen[-1] + 1]), whole)  # the coarsest level is the latent alone


def test_weights_trained_at_one_size_work_at_another():
    (small, _), (large, _) = pair(32), pair(64)
    large.load_state_dict(small.state_dict())
    x = torch.rand(1, 1, 64, 64)
    assert torch.equal(large(x)[-1], small(x)[-1])


def test_incompatible_shapes_are_rejected():
    with pytest.raises(
        UserError, match=r"data.image_size=36: 3 model.encoder.widths halve it; expected a multiple of 8"
    ):
        pair(36)
    with pytest.raises(UserError, match=r"model.encoder.blocks=\[1, 1\]: expected 3 numbers"):
        pair(blocks=(1, 1))
    with pytest.raises(UserError, match="model.encoder.window=4: expected an odd number"):
        LogUNetEncoder(image_shape=(1, 32, 32), widths=[8], blocks=[1], window=4, attention=NONE)
    with pytest.raises(UserError, match=r"model.latent_dim: a despeckler has a latent map"):
        LogUNetDecoder(latent_shape=(4,), image_shape=(1, 32, 32), widths=[8], blocks=[1], attention=NONE)
