"""What stands between the command line and a run: checks every job first, answers mistakes in one line each."""

import contextlib
import os
import shlex
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
from hydra.core.override_parser.types import Override, Transformer
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from saaae.callbacks.interruption import Interrupted
from saaae.errors import Pruned, RunFailedError, UserError, disk_fault, user_error_in
from saaae.runs.engines import ENGINES, chosen, refuse_absent_gpus, refuse_missing_engines, refuse_mixed_machines
from saaae.runs.folder import OUTPUTS, RunFolder, in_quotes, plain, register_resolvers, stamp
from saaae.runs.jobs import DONE, FAILED, MISTAKE, Launch, Outcome, exit_status
from saaae.runs.processes import rank
from saaae.runs.status import is_locked
from saaae.runs.validate import explain, faults, keys_of

INTERRUPTED = 130
BASE = "base"
"""File of a group that its options inherit from; not an option."""
SILENT = ("slurm", "submitit")
"""Launchers whose jobs print into files."""
GRID = (None, "basic")
"""Sweepers whose jobs are known before the first one starts."""

register_resolvers()  # also in a process that a launcher starts: it imports this to know what to do


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
    _show_plugins()
    full = "HYDRA_FULL_ERROR" in os.environ
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # a fault of this program deserves its whole stack trace
    args = get_args_parser().parse_args()
    config_dir = config_dir.resolve()
    task = Task(door)
    if not (args.help or args.hydra_help or args.info or args.shell_completion):
        if args.multirun and not door.compare:
            print("error: --multirun (-m): is for train.py; expected one command for each", file=sys.stderr)
            sys.exit(MISTAKE)
        jobs, found = check_command_line(door, config_dir, args.overrides, args.multirun)
        if found:
            print("\n".join(f"error: {line}" for line in found), file=sys.stderr)
            sys.exit(MISTAKE)
        if args.multirun and not args.cfg:
            overrides = OverridesParser.create().parse_overrides(args.overrides)
            sweep = _sweep_folder(door, config_dir, overrides)
            task.launch = Launch(sweep, stamp(), chosen("hydra/launcher", overrides))
            if (task.launch.launcher or "").startswith(SILENT):
                print(f"submitted    what the jobs print is in {sweep / '.submitit'}", flush=True)
            task.num_jobs = len(jobs) if chosen("hydra/sweeper", overrides) in GRID else None
            sys.argv += [_leave_out_of_job_names(overrides), f"hydra.sweep.dir={in_quotes(str(task.launch.sweep))}"]
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
    except Exception as error:
        mistake, launcher = user_error_in(error), task.launch and task.launch.launcher
        if not mistake and (full or not launcher):
            raise
        said = " ".join(str(error).split()) or type(error).__name__
        print(f"error: {mistake or f'hydra/launcher={launcher}: {said}'}", file=sys.stderr)
        sys.exit(MISTAKE if mistake else FAILED)
    finally:
        status = _summarise(task, args.overrides) if task.launch else DONE
    sys.exit(status)


class Task:
    """A job as a launcher runs it, here or in another process: a mistake is one line, and in a multirun a failing job
    does not stop the others.

    Args:
        door: The entry point.

    Attributes:
        launch: The multirun that the job is of; None for a single run.
        num_jobs: How many jobs it has; None where a sweeper decides.
    """

    def __init__(self, door: Door) -> None:
        self.door = door
        self.launch: Launch | None = None
        self.num_jobs: int | None = None

    def __call__(self, cfg: DictConfig) -> Any:
        """Does the work.

        Returns:
            What the door gives; None where it failed.
        """
        if self.launch is None:
            value, status, _ = self._answer(cfg)
            return value if status == DONE else sys.exit(status)
        job = HydraConfig.get().job
        begun = Outcome(job.num, HydraConfig.get().runtime.output_dir)
        if rank() > 0:
            return self._answer(cfg)[0]
        print(f"\n[{job.num + 1}{f'/{self.num_jobs}' if self.num_jobs else ''}] {job.override_dirname}", flush=True)
        self.launch.tell(begun)
        try:
            value, status, why = self._answer(cfg)
        except Interrupted as stop:
            self.launch.tell(begun._replace(status=stop.status, why=stop.signal))
            if self.launch.launcher not in (None, "basic"):  # the end of a launcher's worker would end others
                return None
            raise
        self.launch.tell(begun._replace(status=status, why=why))
        return value

    def _answer(self, cfg: DictConfig) -> tuple[Any, int, str]:
        """What the door gives, the exit status, and why it is what it is."""
        try:
            return self.door.run(cfg), DONE, ""
        except Pruned as stop:
            return None, DONE, str(stop)
        except Exception as error:
            mistake, fault = user_error_in(error), disk_fault(error)
            why = fault or str(mistake or error) or type(error).__name__
            known = mistake or fault or isinstance(error, RunFailedError)
            print(f"error: {why}" if known else traceback.format_exc(), file=sys.stderr)
            _remove_if_empty(Path(HydraConfig.get().runtime.output_dir))
            return None, MISTAKE if mistake else FAILED, why


def _remove_if_empty(folder: Path) -> None:
    """The folder that Hydra made, if nothing came of it."""
    with contextlib.suppress(OSError):
        folder.rmdir()
        if folder.parent.parent.name == OUTPUTS.name:
            folder.parent.rmdir()


def _show_plugins() -> None:
    """Hydra looks for plugins in the package `hydra_plugins` of all folders that Python imports from."""
    folder = str(Path(__file__).parents[1] / "plugins")
    if folder not in sys.path:
        sys.path.append(folder)


def _sweep_folder(door: Door, config_dir: Path, overrides: list[Override]) -> Path:
    """Folder of a multirun, found once: in the process of a job the time of the launch is not known any more."""
    words = [str(override.input_line) for override in overrides if not override.is_sweep_override()]
    with initialize_config_dir(str(config_dir), version_base="1.3"):
        return Path(str(compose(door.config_name, words, return_hydra_config=True).hydra.sweep.dir))


def _summarise(task: Task, arguments: list[str]) -> int:
    """Prints how every job of a multirun ended, how they compare, and what to do next.

    Returns:
        The exit status of it all.
    """
    assert task.launch is not None
    outcomes, sweep = task.launch.outcomes(), task.launch.sweep
    if not outcomes:
        return DONE
    task.launch.forget()
    print(f"\n{task.num_jobs or len(outcomes)} jobs in {sweep}")
    for outcome in outcomes:
        state, why = outcome.state, outcome.why
        if state == "lost" and is_locked(RunFolder(outcome.folder)):
            state, why = "running", "still at work; repeat the command later"
        elif state == "lost":
            why = "its process ended without a word; repeat the command to go on"
        print(f"  {state:<11}{Path(outcome.folder).name}  {why}".rstrip())
    if task.num_jobs and len(outcomes) < task.num_jobs:
        print(f"  {task.num_jobs - len(outcomes)} not started; repeat the command to go on")
    try:
        if task.door.compare:
            task.door.compare(sweep)
    except UserError:
        pass  # no job has finished: said above
    except Exception as error:  # how the jobs ended matters more
        print(f"warning: no leaderboard ({error}); make it with python evaluate.py run={sweep}", file=sys.stderr)
    print(f"curves       tensorboard --logdir {sweep}")
    if not any(argument.startswith(("name=", "hydra.sweep.dir=")) for argument in arguments):
        print(f"repeat       python train.py -m name={sweep.name} {shlex.join(arguments)}")
    return exit_status(outcomes)


def groups_of(config_dir: Path) -> dict[str, list[str]]:
    """The options of our groups; Hydra's own are looked at elsewhere."""
    folders = sorted(folder for folder in config_dir.iterdir() if folder.is_dir() and folder.name != "hydra")
    return {folder.name: sorted(path.stem for path in folder.glob("*.yaml") if path.stem != BASE) for folder in folders}


def check_command_line(
    door: Door, config_dir: Path, arguments: list[str], multirun: bool
) -> tuple[list[list[str]], list[str]]:
    """The overrides of every job, and one line per mistake in them; imports no torch and reads no data."""
    groups = groups_of(config_dir)
    try:
        overrides = OverridesParser.create().parse_overrides(arguments)
        refuse_missing_engines(overrides, multirun)
        refuse_mixed_machines(overrides)
        refuse_absent_gpus(overrides)
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
                cfg = compose(door.config_name, overrides=job)
                lines = faults(cfg, door.schema, groups, door.checked_later)
                if not lines:
                    door.check(cfg, job)
            except UserError as error:
                lines = [str(error)]
            except (HydraException, OmegaConfBaseException) as error:
                lines = [explain(error, _known_keys(door, overrides), groups)]
            found.update(dict.fromkeys(lines))
    return jobs, list(found)


def _known_keys(door: Door, overrides: list[Override]) -> list[str]:
    """What may be set: the keys of the default configuration, and those of the chosen launcher and sweeper."""
    engines = [str(o.input_line) for o in overrides if o.key_or_group in ENGINES]
    cfg = plain(compose(door.config_name, overrides=engines, return_hydra_config=True))
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
    if chosen("hydra/sweeper", overrides) not in GRID:
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


def _leave_out_of_job_names(overrides: list[Override]) -> str:
    """An override that keeps what all jobs of a sweep share out of their folders' names."""
    shared = [o.get_key_element().lstrip("+~") for o in overrides if not o.is_sweep_override()]
    return f"hydra.job.config.override_dirname.exclude_keys=[{','.join(shared)}]"
