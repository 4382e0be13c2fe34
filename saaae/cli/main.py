"""Command-line entry point: validation, exit codes, multirun summary."""

import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser

from saaae.cli.command import Command
from saaae.cli.dry_run import GRID_SWEEPERS, Search, check_command_line
from saaae.cli.jobs import DONE, FAILED, USAGE_ERROR, Launch
from saaae.cli.launchers import chosen
from saaae.cli.multirun import Task, shared_overrides, summarize, sweep_folder_of
from saaae.config.overrides import in_quotes, positionals_last, quote_paths
from saaae.config.resolvers import register_resolvers, stamp
from saaae.errors import folder_error, user_error_in
from saaae.runs.folder import RunFolder

OPTIONS_WITH_VALUE = ("--cfg", "-c", "--package", "-p", "--config-dir", "-cd", "--config-name", "-cn", "--config-path",
                      "-cp", "--info")  # fmt: skip
"""Options of Hydra whose value may be the next word."""
SILENT_LAUNCHERS = ("slurm", "submitit")
"""Launchers whose jobs print into files."""

register_resolvers()  # also in a process that a launcher starts: it imports this to know what to do


def main(command: Command, config_dir: Path) -> None:
    """Checks the command line, then lets Hydra run it.

    Exits with 0 (done), 1 (a run failed), 2 (a usage error), or 128 + signal (interrupted: 130 for Ctrl-C).
    """
    _add_plugins()
    full = "HYDRA_FULL_ERROR" in os.environ
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # an error of this program deserves its whole stack trace
    sys.argv[1:] = positionals_last(sys.argv[1:], OPTIONS_WITH_VALUE)
    args = get_args_parser().parse_args()
    args.overrides = quote_paths(args.overrides)
    sys.argv[1:] = quote_paths(sys.argv[1:])
    config_dir = config_dir.resolve()
    task = Task(command)
    if not (args.help or args.hydra_help or args.info or args.shell_completion):
        _check(task, config_dir, args)
    try:
        hydra.main(version_base="1.3", config_path=str(config_dir), config_name=command.config_name)(task)()
    except OSError as error:  # Hydra makes the run folder before there is a job
        if not (reason := folder_error(error)):
            raise
        print(f"error: {reason}", file=sys.stderr)
        sys.exit(FAILED)
    except Exception as error:
        usage_error, launcher = user_error_in(error), task.launch and task.launch.launcher
        if not usage_error and (full or not launcher):
            raise
        text = " ".join(str(error).split()) or type(error).__name__
        print(f"error: {usage_error or f'hydra/launcher={launcher}: {text}'}", file=sys.stderr)
        sys.exit(USAGE_ERROR if usage_error else FAILED)
    finally:
        status = summarize(task, args.overrides, args.config_dir) if task.launch else DONE
    sys.exit(status)


def _check(task: Task, config_dir: Path, args: Any) -> None:
    """Checks all jobs of the command line and prepares a multirun; exits with 2 at the first usage error."""
    command, search = task.command, Search(config_dir, args.config_dir)
    if args.config_name or args.config_path:
        _refuse("--config-name, --config-path: not supported; --config-dir=<folder> adds your own options")
    if args.multirun and not command.compare:
        _refuse("--multirun (-m): is for train.py; expected one command for each")
    jobs, errors = check_command_line(command, search, args.overrides, args.multirun)
    if errors:
        _refuse(*errors)
    if args.multirun and not args.cfg:
        if command.dry_build and (errors := command.dry_build(jobs.configs)):
            _refuse(*errors)
        overrides = OverridesParser.create().parse_overrides(args.overrides)
        sweep = sweep_folder_of(command, search, overrides)
        task.launch = Launch(sweep, stamp(), chosen("hydra/launcher", overrides))
        task.groups = search.groups(args.overrides)
        if RunFolder(sweep).record.is_file():
            _refuse(f"name={sweep.name}: {sweep} holds a single run; choose another name for a sweep")
        if jobs.number == 1 and task.launch.launcher is None:
            print("note: one job only; a sweep is given as key=value,value")
        if (task.launch.launcher or "").startswith(SILENT_LAUNCHERS):
            print(f"submitted    what the jobs print is in {sweep / '.submitit'}", flush=True)
        task.num_jobs = jobs.number if chosen("hydra/sweeper", overrides) in GRID_SWEEPERS else None
        sys.argv += [shared_overrides(overrides), f"hydra.sweep.dir={in_quotes(str(task.launch.sweep))}"]


def _refuse(*lines: str) -> NoReturn:
    print("\n".join(f"error: {line}" for line in lines), file=sys.stderr)
    sys.exit(USAGE_ERROR)


def _add_plugins() -> None:
    """Hydra looks for plugins in the package `hydra_plugins` of all folders that Python imports from."""
    folder = str(Path(__file__).parents[1] / "plugins")
    if folder not in sys.path:
        sys.path.append(folder)
