"""Reads a trained model from a run folder, a checkpoint or an exported folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from omegaconf import DictConfig
from torch import Tensor

from saaae.atomic import read_json_or_empty
from saaae.config.resolvers import register_resolvers
from saaae.config.trust import check_trusted
from saaae.errors import UserError
from saaae.models.lightning import model_weights
from saaae.runs.checkpoints import config_in, read_checkpoint, read_weights
from saaae.runs.exported import WEIGHTS, is_exported, read_description
from saaae.runs.folder import RunFolder
from saaae.runs.run import resolve_config

CheckpointName = Literal["best", "last"]


class Source(NamedTuple):
    """A trained model as it is stored.

    Attributes:
        path: Where it was read: a checkpoint or an exported folder.
        config: Resolved configuration of its run.
        weights: Tensors by their names in the torch model.
        metrics: Test metrics of these weights; empty if unknown.
    """

    path: Path
    config: DictConfig
    weights: dict[str, Tensor]
    metrics: dict[str, Any]


def read_source(path: Path, checkpoint: CheckpointName = "best", trust: Sequence[str] = ()) -> Source:
    """Reads a trained model; nothing in it is executed.

    Args:
        path: Run folder, checkpoint or exported folder.
        checkpoint: Of a run folder, `best` or `last`.
        trust: Packages besides saaae whose classes its configuration may instantiate.

    Raises:
        UserError: If the path is none of these, a file is missing or damaged, or a class is not trusted.
    """
    register_resolvers()
    if checkpoint not in ("best", "last"):
        raise UserError(f"checkpoint={checkpoint}: expected best or last; a checkpoint file is given as run=<path>")
    path = path.expanduser()
    if is_exported(path):
        config, metrics = read_description(path)
        check_trusted(config, path, trust)
        return Source(path, config, read_weights(path / WEIGHTS), metrics)
    if path.is_file():
        folder, file = RunFolder(path.parent.parent), path
        config = config_in(path)
    else:
        folder = RunFolder(path)
        config = folder.full_config()
        file = folder.best if checkpoint == "best" else folder.last
        if not file.is_file():
            raise UserError(f"{file}: no such checkpoint; {_alternative(folder)}")
    check_trusted(config, file, trust)
    weights = model_weights(read_checkpoint(file)["state_dict"])
    metrics = read_json_or_empty(folder.metrics).get("test", {}) if file == folder.best else {}
    return Source(file, resolve_config(config), weights, metrics)


def _alternative(folder: RunFolder) -> str:
    """Which checkpoint there is instead."""
    for name, path in (("best", folder.best), ("last", folder.last)):
        if path.is_file():
            return f"expected checkpoint={name}"
    return "the run has not validated yet"
