"""What a run leaves behind in numbers: metrics.json and the table in the terminal."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

UNITS = {
    "ssim": "",
    "psnr": "dB",
    "mse": "",
    "ssim_clean": "",
    "psnr_clean": "dB",
    "mse_clean": "",
    "nll": "nats per image",
    "nll_mode": "nats per image",
    "kl": "nats per image",
    "kl_effective": "nats per image",
    "kl_nominal": "nats per image",
    "uncharged_nats": "nats per image",
    "elbo": "nats per image",
    "iw_elbo": "nats per image",
    "bits_per_dim": "bits",
    "active_units": "",
}
NOTES = {
    "ssim": "z = mean, against the target",
    "ssim_clean": "z = mean, against the clean reference",
    "iw_elbo": "importance-weighted bound",
    "active_units": "latent dimensions that depend on the image",
    "nll": "z sampled",
    "nll_mode": "z = mean",
    "kl": "what the loss charges",
    "bits_per_dim": "per pixel; of 8-bit pixels where the likelihood is a density",
    "kl_effective": "of what z really has",
    "uncharged_nats": "kl_effective - kl: above 0 the loss is not an ELBO",
}


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


def table(title: str, metrics: dict[str, Any]) -> str:
    """The main test metrics as aligned lines, most telling first; the others stay in metrics.json."""
    is_bound = not metrics.get("uncharged_nats")
    hidden = {"kl_effective", "kl_nominal", "uncharged_nats"} if is_bound else set()
    hidden |= set() if "elbo" in metrics else {"kl"}  # a deterministic model charges nothing
    shown = [name for name in UNITS if metrics.get(name) is not None and name not in hidden]
    rows = [(name, metrics[name], UNITS[name]) for name in shown]
    lines = [f"  {name:<16}{value:>12.4f}  {unit:<16}{NOTES.get(name, '')}".rstrip() for name, value, unit in rows]
    return "\n".join([title, *lines])
