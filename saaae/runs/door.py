"""What stands between the command line and a run: checks every job first, answers mistakes in one line each."""

import contextlib
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import hydra
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from saaae.callbacks.interruption import Interrupted
from saaae.errors import RunFailedError, UserError, disk_fault
from saaae.runs.folder import OUTPUTS, plain, register_resolvers
from saaae.runs.validate import explain, faults, keys_of

FAILED, MISTAKE, INTERRUPTED = 1, 2, 130


class Door(NamedTuple):
    """One entry point.

    Attributes:
        config_name: Its primary configuration in conf/.
        schema: Types of the plain settings at the root of that configuration.
        check: Checks a composed configuration and its overrides beyond types, without torch; raises UserError.
        run: Does the work, given the composed configuration.
        checked_later: Groups that make sense only in another configuration, where `check` looks at them.
        compare: Compares the jobs of a multirun, given its folder; raises UserError where there is nothing to compare.
    """

    config_name: str
    schema: type
    check: Callable[[DictConfig, list[str]], None]
    run: Callable[[DictConfig], Any]
    checked_later: frozenset[str] = frozenset()
    compare: Callable[[Path], None] | None = None


def open_door(door: Door, config_dir: Path) -> None:
    """Checks the command line, then lets Hydra run it; exits with 0, 1 (a run failed) or 2 (the user's mistake)."""
    register_resolvers()
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # a fault of a launcher deserves its whole stack trace
    args = get_args_parser().parse_args()
    config_dir = config_dir.resolve()
    num_jobs = 0
    if not (args.help or args.hydra_help or args.info or args.shell_completion):
        jobs, found = check_command_line(door, config_dir, args.overrides, args.multirun)
        if found:
            print("\n".join(f"error: {line}" for line in found), file=sys.stderr)
            sys.exit(MISTAKE)
        num_jobs = len(jobs)
        if args.multirun and not args.cfg:
            sys.argv.append(_leave_out_of_job_names(args.overrides))
    outcomes: list[Outcome] = []
    task = _task(door, outcomes, num_jobs)
    try:
        hydra.main(version_base="1.3", config_path=str(config_dir), config_name=door.config_name)(task)()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except OSError as error:  # Hydra makes the run folder before there is a job
        if not (fault := disk_fault(error)):
            raise
        print(f"error: {fault}", file=sys.stderr)
        sys.exit(FAILED)
    except Interrupted:
        if outcomes:
            _summarise(door, outcomes, num_jobs, args.overrides)
        raise
    if outcomes:
        _summarise(door, outcomes, num_jobs, args.overrides)
        sys.exit(max((o.status for o in outcomes), key=(0, MISTAKE, FAILED).index))


class Outcome(NamedTuple):
    """How one job of a multirun ended."""

    overrides: str
    folder: str
    status: int
    why: str

    @property
    def state(self) -> str:
        """In a word."""
        return "done" if self.status == 0 else "failed" if self.status in (FAILED, MISTAKE) else "preempted"


def _task(door: Door, outcomes: list[Outcome], num_jobs: int) -> Callable[[DictConfig], Any]:
    """Wraps the work: a mistake is one line, and in a multirun a failing job does not stop the others."""

    def task(cfg: DictConfig) -> Any:
        hydra_config = HydraConfig.get()
        multirun = hydra_config.mode == RunMode.MULTIRUN
        overrides = " ".join(hydra_config.overrides.task)
        if multirun:
            print(f"\n[{hydra_config.job.num + 1}/{num_jobs}] {overrides}", flush=True)
        value, status, why = None, 0, ""
        folder = hydra_config.runtime.output_dir
        try:
            value = door.run(cfg)
        except Interrupted as stop:
            if multirun:
                outcomes.append(Outcome(overrides, folder, stop.status, stop.signal))
            raise
        except Exception as error:
            mistake = user_error_in(error)
            fault = disk_fault(error)
            status, why = MISTAKE if mistake else FAILED, fault or str(mistake or error) or type(error).__name__
            known = mistake or fault or isinstance(error, RunFailedError)
            print(f"error: {why}" if known else traceback.format_exc(), file=sys.stderr)
            with contextlib.suppress(OSError):  # the folder that Hydra made, if nothing came of it
                made = Path(folder)
                made.rmdir()
                if made.parent.parent.name == OUTPUTS.name:
                    made.parent.rmdir()
        if not multirun and status:
            sys.exit(status)
        if multirun:
            outcomes.append(Outcome(overrides, folder, status, why))
        return value

    return task


def _summarise(door: Door, outcomes: list[Outcome], num_jobs: int, arguments: list[str]) -> None:
    """Prints how every job of a multirun ended, how they compare, and what to do next."""
    sweep = Path(outcomes[0].folder).parent
    sweep = sweep.relative_to(Path.cwd()) if sweep.is_relative_to(Path.cwd()) else sweep
    print(f"\n{num_jobs} jobs in {sweep}")
    for outcome in outcomes:
        print(f"  {outcome.state:<11}{Path(outcome.folder).name}  {outcome.why}".rstrip())
    if len(outcomes) < num_jobs:
        print(f"  {num_jobs - len(outcomes)} not started; repeat the command to go on")
    try:
        if door.compare:
            door.compare(sweep)
    except UserError:
        pass  # no job has finished: said above
    except Exception as error:  # how the jobs ended matters more
        print(f"warning: no leaderboard ({error}); make it with python evaluate.py run={sweep}", file=sys.stderr)
    print(f"curves       tensorboard --logdir {sweep}")
    if not any(argument.startswith("name=") for argument in arguments):
        print(f"repeat       python train.py -m name={sweep.name} {' '.join(arguments)}")


def user_error_in(error: BaseException | None) -> UserError | None:
    """The user's mistake behind an exception, through the wrappers of Hydra's instantiate."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__
    return error


def check_command_line(
    door: Door, config_dir: Path, arguments: list[str], multirun: bool
) -> tuple[list[list[str]], list[str]]:
    """The overrides of every job, and one line per mistake in them; imports no torch and reads no data."""
    groups = {d.name: sorted(p.stem for p in d.glob("*.yaml")) for d in config_dir.iterdir() if d.is_dir()}
    try:
        overrides = OverridesParser.create().parse_overrides(arguments)
        jobs = expand(overrides, multirun)
    except (OverrideParseException, UserError) as error:
        return [], [explain(error, [], groups)]
    emptied = [o.key_or_group for o in overrides if o.key_or_group in groups and o.value() is None]
    if emptied:
        return [], [f"{group}=null: expected one of {', '.join(groups[group])}" for group in emptied]
    found: dict[str, None] = {}
    with initialize_config_dir(str(config_dir), version_base="1.3"):
        for job in jobs:
            try:
                cfg = compose(door.config_name, overrides=job)
                lines = faults(cfg, door.schema, groups, door.checked_later)
                if not lines:
                    door.check(cfg, job)
            except UserError as error:
                lines = [str(error)]
            except (HydraException, OmegaConfBaseException) as error:
                known = list(keys_of(plain(compose(door.config_name))))
                lines = [explain(error, known, groups)]
            found.update(dict.fromkeys(lines))
    return jobs, list(found)


def expand(overrides: list[Override], multirun: bool) -> list[list[str]]:
    """The overrides of every job of a grid; with another sweeper only what all its trials share.

    Raises:
        UserError: If a single run is given several values.
    """
    swept = [override for override in overrides if override.is_sweep_override()]
    if multirun and any(override.key_or_group == "resume" for override in overrides):
        raise UserError("resume: not with --multirun; repeat the sweep's own command, finished jobs are left alone")
    if not multirun:
        for override in swept:
            raise UserError(f"{override.input_line}: several values need --multirun (-m)")
        return [[str(override.input_line) for override in overrides]]
    own_sweeper = any(override.key_or_group == "hydra/sweeper" for override in overrides)
    if own_sweeper:
        return [[str(override.input_line) for override in overrides if override not in swept]]
    return BasicSweeper.split_arguments(overrides, max_batch_size=None)[0]


def _leave_out_of_job_names(arguments: list[str]) -> str:
    """An override that keeps what all jobs of a sweep share out of their folders' names."""
    overrides = OverridesParser.create().parse_overrides(arguments)
    shared = [o.get_key_element().lstrip("+~") for o in overrides if not o.is_sweep_override()]
    return f"hydra.job.config.override_dirname.exclude_keys=[{','.join(shared)}]"
