"""Cost of the attention layers for different numbers of positions: python benchmarks/attention.py [channels]

Parameters, milliseconds of a forward and backward pass, and memory that autograd keeps for it besides the input, for
one map of 64 channels and 16x16 to 128x128 positions, on one CPU thread. A dash: the layer does not allow the size.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import yaml
from hydra.utils import instantiate

from saaae.errors import UserError

SIZES = (16, 32, 64, 128)


def measure(layer, x, rounds=5):
    """Milliseconds (fastest of several rounds) and MB kept for the backward pass."""
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(x).sum()
    own = x.untyped_storage().data_ptr()
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        layer(x).sum().backward()
        best = min(best, time.perf_counter() - start)
    return 1000 * best, sum(size for pointer, size in kept.items() if pointer != own) / 2**20


def main(channels):
    """Prints the table."""
    torch.set_num_threads(1)
    conf = Path(__file__).parents[1] / "conf" / "attention"
    print(f"| {channels} channels | parameters | " + " | ".join(f"{size}x{size}: ms, MB" for size in SIZES) + " |")
    print("|---" * (len(SIZES) + 2) + "|")
    for kind in sorted(path.stem for path in conf.glob("*.yaml") if path.stem != "none"):
        layer = instantiate(yaml.safe_load((conf / f"{kind}.yaml").read_text())["layer"])(channels)
        cells = []
        for size in SIZES:
            try:
                layer.check_size(size)
                milliseconds, megabytes = measure(layer, torch.randn(1, channels, size, size, requires_grad=True))
                cells.append(f"{milliseconds:.1f}, {megabytes:.1f}")
            except UserError:
                cells.append("-")
        print(f"| {kind} | {sum(p.numel() for p in layer.parameters())} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 64)
