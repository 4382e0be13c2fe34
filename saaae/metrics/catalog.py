"""Every metric of the project: unit, meaning, range, and where it is shown. Imports nothing heavy."""

from collections.abc import Iterable
from typing import Any, NamedTuple

NATS = "nats per image"


class Measure(NamedTuple):
    """What a logged number is and where it appears.

    Attributes:
        unit: Its unit; empty for a pure number.
        meaning: One line for the reader of the number.
        low: Least possible value; None for none.
        high: Greatest possible value; None for none.
        chooses: Whether its validation value may choose best.ckpt: no metric that beta moves.
        objective: Whether its validation value may be the objective of a study.
        minimize: Whether less is better, where it is an objective.
        needs_kl: Whether only models with a KL have it.
        printed: Whether the table at the end of a run shows it.
        compared: Whether leaderboards have a column for it.
        hparam: Whether TensorBoard's table of hyperparameters shows it.
        percentiles: Whether a test also stores its median and 5th percentile over images.
    """

    unit: str = ""
    meaning: str = ""
    low: float | None = None
    high: float | None = None
    chooses: bool = False
    objective: bool = False
    minimize: bool = False
    needs_kl: bool = False
    printed: bool = True
    compared: bool = False
    hparam: bool = False
    percentiles: bool = False


def _score(unit: str, meaning: str, low: float | None = None, high: float | None = None, **flags: Any) -> Measure:
    """A metric that every comparison shows."""
    return Measure(unit, meaning, low, high, compared=True, hparam=True, **flags)


def _quality(unit: str, meaning: str, low: float, high: float) -> Measure:
    """A score of reconstructed images, which may choose best.ckpt."""
    return _score(unit, meaning, low, high, percentiles=True, chooses=True, objective=True)


def _stored(unit: str, meaning: str, low: float | None = None, high: float | None = None, **flags: Any) -> Measure:
    """A metric that only metrics.json shows."""
    return Measure(unit, meaning, low, high, printed=False, **flags)


_FABRIC_SCORES = {
    "tile_auroc": "defective against normal tiles",
    "tile_ap": "average precision of tiles",
    "image_auroc": "defective against normal strips, by their highest tile",
    "pixel_ap": "average precision of pixels",
    "aupro_30": "per-region overlap up to a false positive rate of 0.3",
    "aupro_05": "per-region overlap up to a false positive rate of 0.05",
}
_OF_FABRIC = {
    "by_position": "maps standardised by fabric and position along the strip",
    "reserved": "likewise, of a fixed third of the defective strips, reserved from choices",
}
"""Suffixes of metrics of fabric: how maps are standardised, and which defects are tested."""

MEASURES = {
    "ssim": _quality("", "against the target", -1, 1),
    "psnr": _quality("dB", "against the target, peak 1", 0, 100),
    "mse": _stored("", "against the target", 0, 1, chooses=True, objective=True, minimize=True),
    "ms_ssim": Measure("", "against the target, five scales", 0, 1),
    "ssim_clean": _quality("", "against the clean reference", -1, 1),
    "psnr_clean": _quality("dB", "against the clean reference, peak 1", 0, 100),
    "mse_clean": _stored("", "against the clean reference", 0, 1),
    "ms_ssim_clean": Measure("", "against the clean reference, five scales", 0, 1),
    "nll": _score(NATS, "z sampled", objective=True, minimize=True),
    "nll_mode": _stored(NATS, "z = mean"),
    "kl": Measure(NATS, "the KL in the loss", 0, objective=True, minimize=True, needs_kl=True),
    "kl_w": _stored(NATS, "share of the coarse latent w in the KL", 0),
    "kl_effective": _score(NATS, "KL of the distribution that z is sampled from", 0),
    "kl_nominal": Measure(NATS, "KL as if the importance map removed no noise", 0),
    "uncharged_nats": Measure(NATS, "kl_effective - kl: above 0 the loss is not an ELBO", compared=True),
    "elbo": _score(NATS, "-(nll + kl_effective)", chooses=True, objective=True, needs_kl=True),
    "iw_elbo": Measure(NATS, "importance-weighted bound"),
    "bits_per_dim": Measure(
        "bits", "per pixel and channel; of 8-bit pixels where the likelihood is a density",
        objective=True, minimize=True, needs_kl=True, compared=True,
    ),
    "active_units": Measure("", "latent dimensions that depend on the image", 0, compared=True),
    "mig": _score("", "mutual information gap of the known factors", 0, 1),
    "sap": _score("", "separated attribute predictability of the known factors", 0, 1),
    "dci_disentanglement": _score("", "whether each latent tells of one factor", 0, 1),
    "dci_completeness": Measure("", "whether one latent tells of each factor", 0, 1),
    "dci_informativeness": Measure("", "variance of the factors that latents predict linearly", None, 1),
    "marking": Measure(
        "nats per pixel", "weighted cross-entropy of the marks of changed pixels", 0,
        chooses=True, objective=True, minimize=True, compared=True,
    ),
    "anchor_mean": _stored("", "anchor", 0, 1),
    "anchor_spread": _stored("", "standard deviation of the anchor over the latent", 0, 1),
    "anchor_flat": _stored("", "share of images whose map is flat", 0, 1),
    "anchor_gain": _stored("", "learned factor on the anchor, which began at 0", -1, 1),
    "noise_power": _stored("", "mean square factor on the injected noise", 0),
    "noise_log_factor": _stored("nats", "mean log factor on the injected noise"),
    "moi": _stored("", "mean intensity of the reconstruction over the input's", 0),
    "ratio_mean": Measure("", "intensity of input over reconstruction: 1 if only speckle was removed", 0),
    "ratio_variance": Measure("", "variance of that ratio: 1 / looks if only speckle was removed", 0),
    "enl": Measure("looks", "of the reconstruction on a homogeneous window, median of images", 0),
    "enl_observed": Measure("looks", "of the input on the same window, median of images", 0),
    "epi": Measure("", "edge preservation: correlation of Laplacians with the clean ones", -1, 1),
    "epd_roa_horizontal": _stored("", "edge preservation by ratios of neighbours, against the input", 0),
    "epd_roa_vertical": _stored("", "edge preservation by ratios of vertical neighbours", 0),
    "tile_auroc": _score("", "defective against normal tiles", 0, 1),
    "tile_ap": _score("", "average precision of tiles", 0, 1),
    "image_auroc": Measure("", "defective against normal strips, by their highest tile", 0, 1),
    "pixel_auroc": Measure("", "not informative where few pixels are defective: see pixel_ap", 0, 1),
    "pixel_ap": Measure("", "average precision of pixels", 0, 1),
    "aupro_30": Measure("", "per-region overlap up to a false positive rate of 0.3", 0, 1),
    "aupro_05": Measure("", "per-region overlap up to a false positive rate of 0.05", 0, 1),
    "recall": Measure("", "of defective tiles, at a threshold from validation tiles", 0, 1),
    "false_alarm_rate": Measure("", "of normal test tiles, at that threshold", 0, 1),
    **{f"{name}_{suffix}": Measure("", f"{meaning}; {how}", 0, 1) for suffix, how in _OF_FABRIC.items()
       for name, meaning in _FABRIC_SCORES.items()},
}  # fmt: skip
"""All metrics by name, in the order in which tables show them. `psnr` is `val/psnr` or `test/psnr` in a log."""
PERCENTILES = {"_median": "median of images", "_p05": "5th percentile of images: one in twenty is worse"}
"""Suffixes of the test metrics that have percentiles."""
HEAVY_TAILED = ("enl", "enl_observed")
"""Reported as the median of the images that have one; a few flat images would dominate the mean."""


def names(flag: str) -> list[str]:
    """Names of the metrics with a flag of `Measure` set."""
    return [name for name, measure in MEASURES.items() if getattr(measure, flag)]


def flagged(logged: str, flag: str) -> bool:
    """Whether the measure of a logged name such as `val/mse` has a flag set."""
    measure = MEASURES.get(logged.partition("/")[2])
    return measure is not None and getattr(measure, flag)


def measure_of(name: str) -> Measure | None:
    """A metric by its name, also with a percentile's suffix; None if it is not in the catalogue."""
    for suffix, meaning in PERCENTILES.items():
        base = MEASURES.get(name.removesuffix(suffix))
        if name.endswith(suffix) and base:
            return base._replace(meaning=f"{base.meaning}; {meaning}")
    return MEASURES.get(name)


def definitions(metrics: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Unit, meaning and range of each metric, to be stored beside its value."""
    known = {name: measure_of(name) for name in metrics}
    fields = ("unit", "meaning", "low", "high")
    return {name: {field: getattr(m, field) for field in fields} for name, m in known.items() if m}
