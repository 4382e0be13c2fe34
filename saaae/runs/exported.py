"""The exported form of a trained model: a folder of safetensors weights, configuration, metrics and card."""

import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from saaae.atomic import check_entries
from saaae.config.validation import complete_stored_config
from saaae.errors import UserError, reading

FORMAT = 1
"""Number of the form; a later version of this project may read several."""

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
"""File names of the layout that Hugging Face's `from_pretrained` expects."""


GRAPHS = (".onnx", ".pt2")
"""Endings of exported graphs, which have no weights to load."""


def is_exported(path: Path) -> bool:
    """Whether a path is a folder in the exported form."""
    return (path / CONFIG).is_file() and (path / WEIGHTS).is_file()


def read_description(folder: Path) -> tuple[DictConfig, dict[str, Any]]:
    """Configuration and metrics of an exported model.

    Raises:
        UserError: If the file is damaged or of a later version.
    """
    path = folder / CONFIG
    with reading(path):
        content = json.loads(path.read_text())
        check_entries(content, ("saaae_format", "config", "metrics"))
    if content["saaae_format"] > FORMAT:
        raise UserError(f"{path}: format {content['saaae_format']}, this version reads {FORMAT}; update saaae")
    return complete_stored_config(OmegaConf.create(content["config"])), content["metrics"]
