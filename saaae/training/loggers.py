"""The loggers of a run: any of Lightning's, given the run's folder, and metrics.csv."""

import inspect
from pathlib import Path
from typing import Any
from uuid import uuid4

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from omegaconf import DictConfig

from saaae.atomic import read_json_or_empty, write_json
from saaae.callbacks.metrics_csv import MetricsCSV
from saaae.errors import UserError
from saaae.runs.folder import RunFolder

LAYOUT = {
    "quality": {
        "SSIM": ["Multiline", ["val/ssim$", "val/ssim_clean$"]],
        "PSNR, dB": ["Multiline", ["val/psnr$", "val/psnr_clean$"]],
        "ELBO, nats per image": ["Multiline", ["val/elbo$"]],
    },
    "objective": {
        "nll, nats per image": ["Multiline", ["train/nll$", "val/nll$"]],
        "KL, nats per image": ["Multiline", ["train/kl$", "val/kl$", "val/kl_effective$"]],
        "beta": ["Multiline", ["train/beta$"]],
        "active units": ["Multiline", ["val/active_units$"]],
    },
}
"""TensorBoard's page CUSTOM SCALARS; tags are regular expressions."""

ID_ARGUMENTS = ("run_id", "id")
"""Constructor arguments by which a logger continues its run on a server."""


def configured_loggers(cfg: DictConfig, folder: RunFolder, step: int) -> list[Logger]:
    """The loggers of the configuration; writes nothing yet.

    Args:
        cfg: Resolved configuration.
        folder: The run folder, in which loggers store their files.
        step: Optimizer step that the run continues from.

    Raises:
        UserError: If a logger's package is not installed or it refuses its arguments.
    """
    ids = read_json_or_empty(_ids_path(folder))
    return [_logger(str(key), node, folder, step, ids.get(str(key))) for key, node in cfg.logger.items()]


def start_loggers(cfg: DictConfig, folder: RunFolder, loggers: list[Logger], step: int) -> list[Logger]:
    """Starts logging: stores the ids by which a resumed run continues, and adds metrics.csv, cut back to `step`."""
    ids: dict[str, str] = {}
    for key, logger in zip(map(str, cfg.logger), loggers, strict=True):
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_custom_scalars(LAYOUT)
        elif set(ID_ARGUMENTS) & set(_parameters(type(logger))):
            getattr(logger, "experiment", None)  # connects, which decides the id
            ids[key] = str(logger.version)
    if ids:
        write_json(_ids_path(folder), ids)
    return [*loggers, MetricsCSV(folder.curves, step)]


def _logger(key: str, node: DictConfig, folder: RunFolder, step: int, stored_id: str | None) -> Logger:
    try:
        known = _parameters(get_object(node["_target_"]))
        offered = {"save_dir": str(folder.path), "run_id": stored_id, "id": stored_id or uuid4().hex}
        arguments: dict[str, Any] = {
            name: value for name, value in offered.items() if name in known and node.get(name) is None
        }
        if node["_target_"].endswith(".TensorBoardLogger"):  # passes further arguments on to its writer
            arguments["purge_step"] = step
        return instantiate(node, _partial_=False, _convert_="all", **arguments)
    except (InstantiationException, ImportError, TypeError, ValueError) as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
        line = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
        hint = f"; pip install -e '.[{key}]' or uv run --extra {key}" if isinstance(cause, ImportError) else ""
        raise UserError(f"logger.{key}: {line}{hint}") from None


def _parameters(kind: Any) -> list[str]:
    """Names of the constructor's arguments."""
    return list(inspect.signature(kind).parameters)


def _ids_path(folder: RunFolder) -> Path:
    return folder.path / ".hydra" / "loggers.json"
