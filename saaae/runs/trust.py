"""Which classes a configuration from a run folder or a checkpoint may instantiate. Imports no torch."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from saaae.errors import UserError
from saaae.runs.signature import is_class

OWN_PACKAGES = ("callbacks", "data", "layers", "models", "networks", "objectives", "posteriors")
SHIPPED = (
    "lightning.pytorch.loggers.CSVLogger",
    "lightning.pytorch.loggers.MLFlowLogger",
    "lightning.pytorch.loggers.TensorBoardLogger",
    "lightning.pytorch.loggers.WandbLogger",
    "torch.optim.Adam",
    "torch.optim.AdamW",
)
"""Targets in conf/ that are not classes of this package."""


def check_trusted(stored: DictConfig, source: Path, trust: Sequence[str]) -> None:
    """Refuses targets that a downloaded run folder or checkpoint must not call.

    Args:
        stored: The configuration, before anything in it is instantiated.
        source: The file that it is from.
        trust: Packages that the user trusts.

    Raises:
        UserError: Naming the first target that is not a class of this package, shipped in conf/, or of a trusted one.
    """
    for resolve in (False, True):  # a target may hide behind an interpolation
        for target in _targets(OmegaConf.to_container(stored, resolve=resolve)):
            if "${" not in target and not _is_trusted(target, trust):
                raise UserError(
                    f"{source}: would call {target}, which is not part of saaae; if you trust it, "
                    f"add trust=[{target.partition('.')[0]}]"
                )


def _targets(node: Any) -> Iterator[str]:
    """All targets of nested plain containers."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield str(node["_target_"])
        node = list(node.values())
    for child in node if isinstance(node, list) else []:
        yield from _targets(child)


def _is_trusted(target: str, trust: Sequence[str]) -> bool:
    if target in SHIPPED or any(target.startswith(f"{package}.") for package in trust):
        return True
    # A class that is defined there: saaae.<module>.os.system would reach what a module imports.
    return target.startswith(tuple(f"saaae.{package}." for package in OWN_PACKAGES)) and is_class(target)
