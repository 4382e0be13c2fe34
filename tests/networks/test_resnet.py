import pytest
import torch

from saaae.errors import UserError
from saaae.layers.placement import Attention
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
    encoder = ResNetEncoder(image_shape=shape, widths=WIDTHS, attention=NONE)
    features = encoder(torch.rand(2, *shape))
    assert features.shape == (2, *encoder.output_shape)
    latent = (7,) if map_channels is None else (map_channels, *encoder.output_shape[1:])
    decoder = ResNetDecoder(latent_shape=latent, image_shape=shape, widths=WIDTHS, attention=NONE)
    assert decoder(torch.randn(2, *latent)).shape == (2, *shape)


def test_a_decoder_whose_depth_does_not_match_the_map_is_rejected():
    with pytest.raises(UserError, match=r"model.decoder.widths: 2 stages need a latent map of side 8"):
        ResNetDecoder(latent_shape=(3, 4, 4), image_shape=(1, 32, 32), widths=[8, 8], attention=NONE)


def test_the_published_size_has_the_published_features():
    encoder = ResNetEncoder(image_shape=(1, 256, 256), widths=[32, 64, 128, 256], attention=NONE)
    assert encoder.output_shape == (256, 16, 16)


def test_residual_blocks_are_added_where_asked_for_and_none_by_default():
    shape, latent = (1, 28, 28), (7,)

    def keys(**blocks):
        encoder = ResNetEncoder(image_shape=shape, widths=[8, 16], attention=NONE, **blocks)
        decoder = ResNetDecoder(latent_shape=latent, image_shape=shape, widths=[8, 16], attention=NONE, **blocks)
        assert decoder(torch.randn(2, 7)).shape == (2, *shape)
        return [sum("body" in name for name in module.state_dict()) // 8 for module in (encoder, decoder)]

    assert keys() == [2, 0]
    assert keys(blocks=0) == [0, 0]
    assert keys(blocks=3) == [6, 6]
