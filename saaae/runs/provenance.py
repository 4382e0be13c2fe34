"""What is needed to repeat a run: versions, commit, seed, device, data."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from saaae.config.settings import config_hash
from saaae.data.datamodule import SPLITS, ImageDataModule


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


def run_record(cfg: DictConfig, data: ImageDataModule) -> dict[str, Any]:
    """What is needed to repeat and to trust the numbers."""
    manifest = data.manifest()
    return {
        "config_hash": config_hash(cfg),
        "split_hash": data.split_hash(),
        "images": {split: data.num_images(split) for split in SPLITS},
        "left_out": manifest["left_out"],
        "skipped_files": len(manifest["skipped"]),
        "seed": cfg.seed,
        "threads": torch.get_num_threads(),
        "precision": cfg.accelerator.precision,
        "visible_gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "device": torch.cuda.get_device_name() if _on_gpu(cfg) else "cpu",
        "data_range": [0.0, 1.0],
        **commit(),
        "versions": versions(),
    }


def _on_gpu(cfg: DictConfig) -> bool:
    return torch.cuda.is_available() and cfg.accelerator.accelerator != "cpu"
