import pytest
import torch

from saaae.errors import UserError
from saaae.layers.placement import Attention
from saaae.layers.residual import ResidualBlock
from saaae.networks.resnet import ResNetDecoder, ResNetEncoder, num_stages

WIDTHS = [8, 16, 16, 16]
NONE = Attention(placement="none", layer=None)


@pytest.mark.parametrize(("size", "stages"), [(256, 4), (64, 4), (28, 2), (32, 4), (12, 2), (8, 2), (100, 2), (27, 0)])
def test_the_number_of_stages_follows_the_image_size(size, stages):
    assert num_stages(size, 4) == stages


@pytest.mark.parametrize(("size", "channels"), [(28, 1), (64, 3), (12, 2)])
@pytest.mark.parametrize("map_channels", [None, 5])
def test_the_decoder_restores_the_image_shape(size, channels, map_channels):
    shape = (channels, size, size)
    encoder = ResNetEncoder(image_shape=shape, widths=WIDTHS, attention=NONE, blocks=1)
    features = encoder(torch.rand(2, *shape))
    assert features.shape == (2, *encoder.output_shape)
    latent = (7,) if map_channels is None else (map_channels, *encoder.output_shape[1:])
    decoder = ResNetDecoder(latent_shape=latent, image_shape=shape, widths=WIDTHS, attention=NONE, blocks=0)
    assert decoder(torch.randn(2, *latent)).shape == (2, *shape)


def test_a_decoder_whose_depth_does_not_match_the_map_is_rejected():
    with pytest.raises(UserError, match=r"model.decoder.widths: 2 stages need a latent map of side 8"):
        ResNetDecoder(latent_shape=(3, 4, 4), image_shape=(1, 32, 32), widths=[8, 8], attention=NONE, blocks=0)


def test_the_published_size_has_the_published_features():
    encoder = ResNetEncoder(image_shape=(1, 256, 256), widths=[32, 64, 128, 256], attention=NONE, blocks=1)
    assert encoder.output_shape == (256, 16, 16)


@pytest.mark.parametrize("blocks", [0, 1, 3])
def test_every_stage_has_as_many_residual_blocks_as_asked_for(blocks):
    shape, settings = (1, 28, 28), {"widths": [8, 16], "attention": NONE, "blocks": blocks}
    encoder = ResNetEncoder(image_shape=shape, **settings)
    decoder = ResNetDecoder(latent_shape=(7,), image_shape=shape, **settings)
    for module in (encoder, decoder):
        assert sum(isinstance(part, ResidualBlock) for part in module.modules()) == 2 * blocks
    assert decoder(torch.randn(2, 7)).shape == (2, *shape)
