"""Checks of loaded images: equal files in several splits, and scales that make tiles useless."""

from collections import defaultdict
from collections.abc import Mapping
from itertools import combinations

import torch
from torch import Tensor

from saaae.errors import UserError
from saaae.types import Split

DARK = 1 / 8
"""A tile whose brightest pixel is below this uses less than 13 of 16 bits."""


class ScaleCheck:
    """Counts tiles that are constant, clipped or dark because of a wrong scale."""

    def __init__(self) -> None:
        self.tiles = self.constant = self.clipped = self.dark = 0

    def add(self, pixels: Tensor) -> None:
        """Counts the tiles (N, C, H, W), uint8 or float32 in [0, 1], of one file."""
        if not len(pixels):
            return
        flat = pixels.flatten(1)
        white = 255 if pixels.dtype == torch.uint8 else 1.0
        self.tiles += len(flat)
        self.constant += int((flat.amin(1) == flat.amax(1)).sum())
        self.clipped += int(((flat == white).float().mean(1) > 0.5).sum())
        self.dark += 0 if pixels.dtype == torch.uint8 else int((flat.amax(1) < DARK).sum())

    def warnings(self) -> list[str]:
        """One line for each problem that more than half of the tiles have."""
        shares = {
            "are constant: a wrong data.full_scale or data.scale, or empty images": self.constant,
            "have most of their pixels at 1.0: data.full_scale may be too small": self.clipped,
            f"stay below {DARK}: data.full_scale may be too large; data=folder takes 65535 as 1.0, "
            "data=sar data.full_scale=<value> another": self.dark,
        }
        return [
            f"{count / self.tiles:.0%} of the tiles {what}" for what, count in shares.items() if 2 * count > self.tiles
        ]


def duplicates_across(files: Mapping[Split, set[str]], digests: Mapping[str, str], allowed: bool) -> list[str]:
    """Equal files under different names in different splits, one line for each pair of splits.

    Args:
        files: Names of the files of each split.
        digests: Digest of each file's content.
        allowed: Whether training and test may share them.

    Raises:
        UserError: If training and test share files and `allowed` is false.
    """
    by_digest: dict[Split, dict[str, list[str]]] = {}
    for split, names in files.items():
        by_digest[split] = defaultdict(list)
        for name in sorted(names):
            by_digest[split][digests[name]].append(name)
    lines = []
    for one, other in combinations(files, 2):
        pairs = [
            (a, b)
            for digest in by_digest[one].keys() & by_digest[other].keys()
            for a, b in [(by_digest[one][digest][0], by_digest[other][digest][-1])]
            if a != b
        ]
        if not pairs:
            continue
        a, b = min(pairs)
        line = f"equal images in {one} and {other}: {len(pairs)} (for instance {a} and {b})"
        if {one, other} == {"train", "test"} and not allowed:
            raise UserError(f"data: {line}; remove them, or allow them with data.allow_duplicates=true")
        lines.append(line)
    return lines
