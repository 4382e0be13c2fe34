"""Test metrics as a table in the terminal."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from saaae.metrics.catalog import MEASURES

DELETIONS = (
    ("deletion_kl", "importance"),
    ("deletion", "anchor"),
)
"""Key and title of the deletion tests: of the KL of each latent cell, and of the anchor of a SAAAE."""


def averaged(ema: float | None) -> str:
    """What a title says of the tested weights where they are an average; else nothing."""
    return "" if ema is None else f", averaged weights, ema={ema}"


def title(path: Path, data: str | None, ema: float | None) -> str:
    """The line above a test of a checkpoint, on the data of its run or on others."""
    return f"test of {path}{f' on data={data}' if data else ''}{averaged(ema)}"


def table(title: str, results: dict[str, Any]) -> str:
    """The main test metrics and findings as aligned lines; what is left out stays in metrics.json.

    Args:
        title: The line above.
        results: The parts of metrics.json.
    """
    metrics = results["test"]
    is_bound = not metrics.get("uncharged_nats")
    hidden = {"kl_effective", "kl_nominal", "uncharged_nats"} if is_bound else set()
    hidden |= set() if "elbo" in metrics else {"kl"}  # a deterministic model has no KL
    printed = ((name, measure) for name, measure in MEASURES.items() if measure.printed and name not in hidden)
    shown = [(name, measure) for name, measure in printed if metrics.get(name) is not None]
    lines = [f"  {name:<20}{metrics[name]:>12.4f}  {m.unit:<16}{m.meaning}".rstrip() for name, m in shown]
    return "\n".join([title, *lines, *findings(results)])


def findings(results: dict[str, Any]) -> Iterator[str]:
    """Results beside the test metrics, one line each."""
    keys = ("hidden_share", "ssim_lost_important", "ssim_lost_elsewhere", "difference", "half_width_95")
    for name, title in DELETIONS:
        if hidden := results.get(name):
            share, important, elsewhere, difference, half = (hidden[key][1] for key in keys)
            yield (
                f"{title:<13}masking the {share:.0%} most important latent cells costs {important:.3f} SSIM, "
                f"masking as many others {elsewhere:.3f} "
                f"(difference {difference:+.3f} +- {half:.3f}, 95 % over {hidden['images']} images)"
            )
    if found := results.get("detection"):
        tile = found["tile"]
        interval = (tile[key] for key in ("auroc", "auroc_low", "auroc_high"))
        yield (
            "defects      tile AUROC {:.3f} [{:.3f}, {:.3f}], 95 % over strips, ".format(*interval)
            + f"{tile['defective']} defective and {tile['sound']} normal tiles"
        )
