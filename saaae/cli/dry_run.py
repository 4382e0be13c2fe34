"""Checks all jobs of a command line before the first one starts."""

from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Transformer
from hydra.errors import HydraException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from saaae.cli.command import Command
from saaae.cli.launchers import LAUNCHERS_AND_SWEEPERS, check_gpus_exist, check_installed, check_slurm_array, chosen
from saaae.config.settings import plain
from saaae.config.validation import config_errors, explain, keys_of
from saaae.errors import UserError

BASE = "base"
"""File of a group that its options inherit from; not an option."""

GRID_SWEEPERS = (None, "basic")
"""Sweepers whose jobs are known before the first one starts."""


def groups_of(config_dir: Path) -> dict[str, list[str]]:
    """The options of our groups; Hydra's own are looked at elsewhere."""
    folders = sorted(folder for folder in config_dir.iterdir() if folder.is_dir() and folder.name != "hydra")
    return {folder.name: sorted(path.stem for path in folder.glob("*.yaml") if path.stem != BASE) for folder in folders}


def check_command_line(
    command: Command, config_dir: Path, arguments: list[str], multirun: bool
) -> tuple[list[list[str]], list[str]]:
    """The overrides of every job, and one line per mistake in them; imports no torch and reads no data."""
    groups = groups_of(config_dir)
    try:
        overrides = OverridesParser.create().parse_overrides(arguments)
        check_installed(overrides, multirun)
        check_slurm_array(overrides)
        check_gpus_exist(overrides)
        jobs = expand(overrides, multirun)
    except (OverrideParseException, UserError) as error:
        return [], [explain(error, [], groups)]
    emptied = [o.key_or_group for o in overrides if o.key_or_group in groups and o.value() is None]
    hidden = [f"{o.key_or_group}={BASE}" for o in overrides if o.key_or_group in groups and o.value() == BASE]
    if hidden:
        return [], [f"{hidden[0]}: no such option; expected one of {', '.join(groups[hidden[0].partition('=')[0]])}"]
    if emptied:
        return [], [f"{group}=null: expected one of {', '.join(groups[group])}" for group in emptied]
    found: dict[str, None] = {}
    with initialize_config_dir(str(config_dir), version_base="1.3"):
        for job in jobs:
            try:
                cfg = compose(command.config_name, overrides=job)
                lines = config_errors(cfg, command.schema, groups, command.checked_later)
                if not lines:
                    command.check(cfg, job)
            except UserError as error:
                lines = [str(error)]
            except (HydraException, OmegaConfBaseException) as error:
                lines = [explain(error, _known_keys(command, overrides), groups)]
            found.update(dict.fromkeys(lines))
    return jobs, list(found)


def _known_keys(command: Command, overrides: list[Override]) -> list[str]:
    """What may be set: the keys of the default configuration, and those of the chosen launcher and sweeper."""
    engines = [str(o.input_line) for o in overrides if o.key_or_group in LAUNCHERS_AND_SWEEPERS]
    cfg = plain(compose(command.config_name, overrides=engines, return_hydra_config=True))
    engine = cfg.pop("hydra")
    keys = [key for part in ("launcher", "sweeper") for key in keys_of(engine[part], f"hydra.{part}.")]
    return [*keys_of(cfg), *(key for key in keys if not key.endswith("_target_"))]


def expand(overrides: list[Override], multirun: bool) -> list[list[str]]:
    """The overrides of every job of a grid; with another sweeper of jobs at the ends of what it may try.

    Raises:
        UserError: If a single run is given several values, or a sweep several names.
    """
    swept = [override for override in overrides if override.is_sweep_override()]
    if multirun and any(override.key_or_group == "resume" for override in overrides):
        raise UserError("resume: not with --multirun; repeat the sweep's own command, finished jobs are left alone")
    for override in swept:
        if not multirun:
            raise UserError(f"{override.input_line}: several values need --multirun (-m)")
        if override.key_or_group == "name":
            raise UserError(f"{override.input_line}: a sweep has one name, and each of its jobs a folder below it")
    if chosen("hydra/sweeper", overrides) not in GRID_SWEEPERS:
        return _ends(overrides)
    if intervals := [override for override in swept if override.is_interval_sweep()]:
        raise UserError(f"{intervals[0].input_line}: a grid has no intervals; expected hydra/sweeper=optuna, or values")
    return BasicSweeper.split_arguments(overrides, max_batch_size=None)[0]


def _ends(overrides: list[Override]) -> list[list[str]]:
    """Jobs that hold between them each choice and both ends of each interval of what a sweeper may try."""
    values = [_values(override) for override in overrides]
    first = [texts[0] for texts in values]
    others = [(place, text) for place, texts in enumerate(values) for text in texts[1:]]
    return [first, *([*first[:place], text, *first[place + 1 :]] for place, text in others)]


def _values(override: Override) -> list[str]:
    if not override.is_sweep_override():
        return [str(override.input_line)]
    sweep: Any = override.value()
    ends = [sweep.start, sweep.end] if override.is_interval_sweep() else None
    return [f"{override.get_key_element()}={value}" for value in ends or override.sweep_iterator(Transformer.encode)]
