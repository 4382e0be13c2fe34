"""Checks all jobs of a command line before the first one starts."""

import itertools
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Transformer
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from saaae.cli.command import Command
from saaae.cli.launchers import LAUNCHERS_AND_SWEEPERS, check_gpus_exist, check_installed, check_slurm_array, chosen
from saaae.config.overrides import in_quotes
from saaae.config.settings import plain
from saaae.config.validation import config_errors, explain, keys_of
from saaae.errors import UserError, nearest

BASE = "base"
"""File of a group that its options inherit from; not an option."""

SEVERAL = ("logger",)
"""Groups that take several options at once, as a list."""
MANY_JOBS, MAX_CHECKED = 50, 1000
"""Jobs from which on checking is announced, and how many are checked before the first starts."""
GRID_SWEEPERS = (None, "basic")
"""Sweepers whose jobs are known before the first one starts."""


def _search_path(words: Sequence[str]) -> list[str]:
    """What `hydra.searchpath=[...]` names."""
    given = OverridesParser.create().parse_overrides([w for w in words if w.startswith("hydra.searchpath=")])
    return [str(path) for override in given if isinstance(paths := override.value(), list) for path in paths]


class Jobs(NamedTuple):
    """The checked jobs of a command line.

    Attributes:
        number: How many there are.
        configs: Composed configurations of those that were checked, with their overrides.
    """

    number: int
    configs: list[tuple[DictConfig, list[str]]]


class Search(NamedTuple):
    """Where options are searched.

    Attributes:
        own: The folder conf/ of this project.
        added: Folder of further options (`--config-dir`); None for none.
    """

    own: Path
    added: str | None = None

    def overrides(self, words: list[str]) -> list[str]:
        """Overrides with the added folder on Hydra's search path."""
        if self.added is None:
            return words
        paths = [f"file://{Path(self.added).absolute()}", *_search_path(words)]
        others = [word for word in words if not word.startswith("hydra.searchpath=")]
        return [*others, f"hydra.searchpath=[{','.join(map(in_quotes, paths))}]"]

    def groups(self, words: Sequence[str] = ()) -> dict[str, list[str]]:
        """The options of every group but Hydra's own, also those of added folders, by group."""
        paths = [path.removeprefix("file://") for path in _search_path(words)]
        folders = [self.own, *(Path(path) for path in [self.added, *paths] if path)]
        options: dict[str, set[str]] = {}
        for path in (path for folder in folders for path in folder.glob("*/*.yaml")):
            if path.parent.name != "hydra" and path.stem != BASE:
                options.setdefault(path.parent.name, set()).add(path.stem)
        return {group: sorted(names) for group, names in sorted(options.items())}


def check_command_line(
    command: Command, search: Search, arguments: list[str], multirun: bool
) -> tuple[Jobs, list[str]]:
    """The jobs, and one line for each usage error in them; imports no torch and reads no data.

    The first job is checked first, then each value of each swept key once, then all combinations if they are at most
    MAX_CHECKED; the jobs of a larger grid are checked as they start.
    """
    if search.added is not None and not Path(search.added).is_dir():
        return Jobs(0, []), [f"--config-dir={search.added}: no such folder"]
    try:
        overrides = OverridesParser.create().parse_overrides(arguments)
        groups = search.groups(arguments)
        check_installed(overrides, multirun)
        check_slurm_array(overrides)
        check_gpus_exist(overrides)
        check_repetitions(overrides, groups)
        check_hydra_keys(overrides, multirun)
        check_choices(overrides, groups)
        check_sweep(overrides, multirun)
    except (OverrideParseException, UserError) as error:
        return Jobs(0, []), [explain(error, [], search.groups())]
    is_grid = chosen("hydra/sweeper", overrides) in GRID_SWEEPERS
    values = [_values(override) for override in overrides]
    count = math.prod(map(len, values)) if is_grid else 1 + sum(len(texts) - 1 for texts in values)
    if count > MANY_JOBS:
        print(f"checking {count} jobs", file=sys.stderr, flush=True)
    whole = itertools.product(*values) if is_grid and count <= MAX_CHECKED else iter(())
    checked: dict[tuple[str, ...], DictConfig | None] = {}
    errors: dict[str, None] = {}
    with initialize_config_dir(str(search.own), version_base="1.3"):
        for stage in (_first(values), itertools.islice(_one_by_one(values), MAX_CHECKED), whole):
            for job in (job for job in stage if job not in checked):
                checked[job], lines = _checked(command, search, list(job), groups, overrides)
                errors.update(dict.fromkeys(lines))
            if errors:
                break
    return Jobs(count, [(cfg, list(job)) for job, cfg in checked.items() if cfg is not None]), list(errors)


def check_job(command: Command, cfg: DictConfig, overrides: list[str], groups: dict[str, list[str]]) -> None:
    """Checks one composed job.

    Raises:
        UserError: With its first error.
    """
    for line in _job_errors(command, cfg, overrides, groups):
        raise UserError(line)


def _job_errors(command: Command, cfg: DictConfig, overrides: list[str], groups: dict[str, list[str]]) -> list[str]:
    """Errors of one composed job: those of single settings, or else the first of the command's own check."""
    try:
        lines = config_errors(cfg, command.schema, groups, command.checked_later)
        if not lines:
            command.check(cfg, overrides)
    except UserError as error:
        lines = [str(error)]
    return lines


def _checked(
    command: Command, search: Search, job: list[str], groups: dict[str, list[str]], overrides: list[Override]
) -> tuple[DictConfig | None, list[str]]:
    """The composed configuration of a job, and its errors."""
    try:
        cfg = compose(command.config_name, overrides=search.overrides(job))
        return cfg, _job_errors(command, cfg, job, groups)
    except (HydraException, OmegaConfBaseException) as error:
        return None, [explain(error, _known_keys(command, search, overrides), groups)]


def check_repetitions(overrides: list[Override], groups: Mapping[str, list[str]]) -> None:
    """Checks groups that are chosen several times: Hydra takes the last option and never sees the others.

    Of a key the last value counts, so that a command may end in changes of a longer one.

    Raises:
        UserError: If an option that is replaced does not exist.
    """
    last = {o.key_or_group: o for o in overrides if o.key_or_group in groups}
    for override in overrides:
        final, option = last.get(override.key_or_group), override.value()
        if final is None or final.input_line == override.input_line or not isinstance(option, str):
            continue
        options = groups[override.key_or_group]
        if option not in options:
            hint = nearest(option, options)
            raise UserError(f"{override.input_line}: no such option; expected one of {', '.join(options)}{hint}")
        print(f"warning: {override.input_line} is replaced by {final.input_line}", file=sys.stderr)


def check_hydra_keys(overrides: list[Override], multirun: bool) -> None:
    """Checks the settings of Hydra that this project cannot obey.

    Raises:
        UserError: Naming one.
    """
    for override in overrides:
        if override.key_or_group == "hydra.job.chdir" and override.value():
            raise UserError(f"{override.input_line}: not supported, runs write to their own folder; expected false")
        if override.key_or_group.startswith("hydra.sweep.") and not multirun:
            raise UserError(f"{override.input_line}: is for --multirun (-m); expected name=<name> for a single run")


def check_choices(overrides: list[Override], groups: dict[str, list[str]]) -> None:
    """Checks what is chosen for the groups, as far as Hydra accepts what is not an option.

    Raises:
        UserError: If it is nothing, several options of a group that takes one, or the file that options inherit from.
    """
    for override in overrides:
        group, value = override.key_or_group, override.value()
        if group not in groups or override.is_sweep_override():
            continue
        if value is None or value == BASE:
            options = ", ".join(groups[group])
            reason = f"{group}=null: " if value is None else f"{group}={value}: no such option; "
            raise UserError(f"{reason}expected one of {options}")
        if isinstance(value, list) and group not in SEVERAL:
            several = ",".join(map(str, value))
            raise UserError(f"{override.input_line}: a list; several runs need {group}={several} and --multirun (-m)")


def _known_keys(command: Command, search: Search, overrides: list[Override]) -> list[str]:
    """Keys that may be set: those of the default configuration, and of the chosen launcher and sweeper."""
    engines = [str(o.input_line) for o in overrides if o.key_or_group in LAUNCHERS_AND_SWEEPERS]
    cfg = plain(compose(command.config_name, overrides=search.overrides(engines), return_hydra_config=True))
    engine = cfg.pop("hydra")
    keys = [key for part in ("launcher", "sweeper") for key in keys_of(engine[part], f"hydra.{part}.")]
    return [*keys_of(cfg), *(key for key in keys if not key.endswith("_target_"))]


def check_sweep(overrides: list[Override], multirun: bool) -> None:
    """Checks which keys are swept.

    Raises:
        UserError: If a single run is given several values, a sweep several names, or a grid an interval.
    """
    swept = [override for override in overrides if override.is_sweep_override()]
    if multirun and any(override.key_or_group == "resume" for override in overrides):
        raise UserError("resume: not with --multirun; repeat the sweep's own command, finished jobs are left alone")
    for override in swept:
        if not multirun:
            raise UserError(f"{override.input_line}: several values need --multirun (-m)")
        if override.key_or_group == "name":
            raise UserError(f"{override.input_line}: a sweep has one name, and each of its jobs a folder below it")
        if chosen("hydra/sweeper", overrides) in GRID_SWEEPERS and override.is_interval_sweep():
            raise UserError(f"{override.input_line}: a grid has no intervals; expected hydra/sweeper=optuna, or values")


def _first(values: list[list[str]]) -> list[tuple[str, ...]]:
    """The first job."""
    return [tuple(texts[0] for texts in values)]


def _one_by_one(values: list[list[str]]) -> Iterator[tuple[str, ...]]:
    """Jobs that between them have each value of each swept key."""
    first = tuple(texts[0] for texts in values)
    for place, texts in enumerate(values):
        for text in texts[1:]:
            yield (*first[:place], text, *first[place + 1 :])


def _values(override: Override) -> list[str]:
    """The overrides that a swept override stands for; of an interval its ends."""
    if not override.is_sweep_override():
        return [str(override.input_line)]
    sweep: Any = override.value()
    ends = [sweep.start, sweep.end] if override.is_interval_sweep() else None
    return [f"{override.get_key_element()}={value}" for value in ends or override.sweep_iterator(Transformer.encode)]
