"""Every metric: its unit, meaning and range."""

from collections.abc import Iterable
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
