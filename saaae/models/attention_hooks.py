"""What the attention layers of a model do with a batch, read by forward hooks."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from saaae.layers.attention import AttentionLayer
from saaae.types import Batch


def from_attention_layers(
    model: nn.Module, batch: Batch, read: Callable[[AttentionLayer, Tensor], Tensor | None]
) -> dict[str, Tensor]:
    """Applies a function to the input of each attention layer; results by the layer's name.

    Args:
        model: Called with the batch.
        batch: Images to attend to.
        read: Given a layer and its features (B, C, H, W); a result of None is left out.
    """
    results: dict[str, Tensor] = {}

    def register(name: str, layer: AttentionLayer) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            result = read(layer, inputs[0])
            if result is not None:
                results[name] = result.float()

        return layer.register_forward_pre_hook(hook)

    hooks = [register(name, layer) for name, layer in model.named_modules() if isinstance(layer, AttentionLayer)]
    try:
        if hooks:
            with torch.compiler.set_stance("force_eager"):  # compiled networks ignore hooks that came later
                model(batch)
    finally:
        for handle in hooks:
            handle.remove()
    return dict(sorted(results.items()))


def attention_maps(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Heat maps (B, 1, h, w) in [0, 1] of a model's attention layers by name; of nested layers the outermost.

    Args:
        model: Called with the batch.
        batch: Images to attend to.
    """
    maps = from_attention_layers(model, batch, lambda layer, x: layer.heat_map(x))
    outermost = [name for name in maps if not any(name.startswith(f"{other}.") for other in maps)]
    return {f"attention, {name.removesuffix('.0')}": maps[name] for name in outermost}
