"""Where a network has attention layers."""

from collections.abc import Callable
from typing import Literal

from torch import nn

from saaae.layers.attention import AttentionLayer

Place = Literal["bottleneck", "encoder", "decoder"]


class Attention:
    """Attention layers of one kind at chosen stages of a network.

    Args:
        placement: `bottleneck` is the end of the encoder, `encoder` and `decoder` are after their other stages, `all`
            is everywhere.
        layer: Makes a layer of a number of channels; None makes none.
    """

    def __init__(
        self,
        *,
        placement: Literal["none", "bottleneck", "encoder", "decoder", "all"],
        layer: Callable[[int], AttentionLayer] | None,
    ) -> None:
        self.placement, self.layer = placement, layer

    def at(self, place: Place, channels: int, size: int) -> list[nn.Module]:
        """The layer for features (B, channels, size, size), or None.

        Raises:
            UserError: If the layer refuses the size or the channels.
        """
        if self.layer is None or self.placement not in (place, "all"):
            return []
        layer = self.layer(channels)
        layer.check_size(size)
        return [layer]
