"""What a run leaves behind in numbers: metrics.json and the table in the terminal."""

import platform
import subprocess
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

NATS = "nats per image"


class Measure(NamedTuple):
    """What a logged number is.

    Attributes:
        unit: Its unit; empty for a pure number.
        meaning: What a reader of the number must know.
        low: Least possible value; None for none.
        high: Greatest possible value; None for none.
    """

    unit: str = ""
    meaning: str = ""
    low: float | None = None
    high: float | None = None


MEASURES = {
    "ssim": Measure("", "against the target", -1, 1),
    "psnr": Measure("dB", "against the target, peak 1", 0, 100),
    "mse": Measure("", "against the target", 0, 1),
    "ms_ssim": Measure("", "against the target, five scales", 0, 1),
    "ssim_clean": Measure("", "against the clean reference", -1, 1),
    "psnr_clean": Measure("dB", "against the clean reference, peak 1", 0, 100),
    "mse_clean": Measure("", "against the clean reference", 0, 1),
    "ms_ssim_clean": Measure("", "against the clean reference, five scales", 0, 1),
    "nll": Measure(NATS, "z sampled"),
    "nll_mode": Measure(NATS, "z = mean"),
    "kl": Measure(NATS, "what the loss charges", 0),
    "kl_effective": Measure(NATS, "of what z really has", 0),
    "kl_nominal": Measure(NATS, "as if the importance map removed no noise", 0),
    "uncharged_nats": Measure(NATS, "kl_effective - kl: above 0 the loss is not an ELBO"),
    "elbo": Measure(NATS, "-(nll + kl_effective)"),
    "iw_elbo": Measure(NATS, "importance-weighted bound"),
    "bits_per_dim": Measure("bits", "per pixel and channel; of 8-bit pixels where the likelihood is a density"),
    "active_units": Measure("", "latent dimensions that depend on the image", 0),
    "anchor_mean": Measure("", "importance", 0, 1),
    "anchor_spread": Measure("", "standard deviation of the importance over the code", 0, 1),
    "anchor_flat": Measure("", "share of images whose map is flat", 0, 1),
    "noise_power": Measure("", "mean square factor on the injected noise", 0),
    "noise_log_factor": Measure("nats", "mean log factor on the injected noise"),
    "moi": Measure("", "mean intensity of the reconstruction over the input's", 0),
    "ratio_mean": Measure("", "intensity of the input over the reconstruction's: 1 where only speckle went", 0),
    "ratio_variance": Measure("", "likewise: 1 / looks", 0),
    "enl": Measure("looks", "of the reconstruction on a homogeneous window, median of images", 0),
    "enl_observed": Measure("looks", "of the input on the same window, median of images", 0),
    "epi": Measure("", "edge preservation: correlation of Laplacians with the clean ones", -1, 1),
    "epd_roa_horizontal": Measure("", "edge preservation by ratios of neighbours, against the input", 0),
    "epd_roa_vertical": Measure("", "likewise", 0),
    "tile_auroc": Measure("", "defective against sound tiles", 0, 1),
    "tile_ap": Measure("", "average precision of tiles", 0, 1),
    "image_auroc": Measure("", "defective against sound strips, by their highest tile", 0, 1),
    "pixel_auroc": Measure("", "nearly meaningless where few pixels are defective: see pixel_ap", 0, 1),
    "pixel_ap": Measure("", "average precision of pixels", 0, 1),
    "aupro_30": Measure("", "per-region overlap up to a false positive rate of 0.3", 0, 1),
    "aupro_05": Measure("", "likewise up to 0.05", 0, 1),
    "recall": Measure("", "of defective tiles, at a threshold from held-out sound tiles", 0, 1),
    "false_alarm_rate": Measure("", "of sound test tiles, at that threshold", 0, 1),
}
DETAILS = ("anchor_", "noise_", "mse", "nll_mode", "epd_roa_", "moi")
"""Beginnings of what is stored and not printed."""
SUFFIXES = {"_median": "median of images", "_p05": "5th percentile of images: one in twenty is worse"}


def measure_of(name: str) -> Measure | None:
    """What a number is, by its bare name; None for one that no table explains."""
    for suffix, meaning in SUFFIXES.items():
        base = MEASURES.get(name.removesuffix(suffix))
        if name.endswith(suffix) and base:
            return base._replace(meaning=f"{base.meaning}; {meaning}")
    return MEASURES.get(name)


def definitions(metrics: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Unit, meaning and range of each number, to be stored beside it."""
    found = {name: measure_of(name) for name in metrics}
    return {name: measure._asdict() for name, measure in found.items() if measure}


def versions() -> dict[str, str]:
    """Versions that decide numbers."""
    found = {"python": platform.python_version()}
    for name in ("saaae", "torch", "torchvision", "lightning", "torchmetrics", "hydra-core"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def commit() -> dict[str, Any]:
    """Commit of the source tree and whether it has uncommitted changes (`dirty`); None outside a checkout."""
    root = Path(__file__).parents[2]

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}


def table(title: str, results: dict[str, Any]) -> str:
    """The main test metrics and findings as aligned lines; what is left out stays in metrics.json.

    Args:
        title: The line above.
        results: The parts of metrics.json.
    """
    metrics = results["test"]
    is_bound = not metrics.get("uncharged_nats")
    hidden = {"kl_effective", "kl_nominal", "uncharged_nats"} if is_bound else set()
    hidden |= set() if "elbo" in metrics else {"kl"}  # a deterministic model charges nothing
    hidden |= {name for name in MEASURES if name.startswith(DETAILS)}
    shown = [(name, m) for name, m in MEASURES.items() if metrics.get(name) is not None and name not in hidden]
    lines = [f"  {name:<20}{metrics[name]:>12.4f}  {m.unit:<16}{m.meaning}".rstrip() for name, m in shown]
    return "\n".join([title, *lines, *findings(results)])


def findings(results: dict[str, Any]) -> Iterator[str]:
    """What was found out beside the test metrics, in words."""
    if hidden := results.get("deletion"):
        keys = ("hidden_share", "ssim_lost_important", "ssim_lost_elsewhere", "difference", "half_width_95")
        share, important, elsewhere, difference, half = (hidden[key][1] for key in keys)
        yield (
            f"importance   hiding the {share:.0%} most important cells of the code costs {important:.3f} SSIM, "
            f"as many elsewhere {elsewhere:.3f} "
            f"(difference {difference:+.3f} +- {half:.3f}, 95 % over {hidden['images']} images)"
        )
    if found := results.get("detection"):
        tile = found["tile"]
        interval = (tile[key] for key in ("auroc", "auroc_low", "auroc_high"))
        yield (
            "defects      tile AUROC {:.3f} [{:.3f}, {:.3f}], 95 % over strips, ".format(*interval)
            + f"{tile['defective']} defective and {tile['sound']} sound tiles"
        )
