"""Command-line entry point: validation, exit codes, multirun summary."""

import os
import sys
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser

from saaae.cli.command import Command
from saaae.cli.dry_run import GRID_SWEEPERS, check_command_line
from saaae.cli.jobs import DONE, FAILED, USAGE_ERROR, Launch
from saaae.cli.launchers import chosen
from saaae.cli.multirun import Task, shared_overrides, summarize, sweep_folder_of
from saaae.config.overrides import in_quotes
from saaae.config.resolvers import register_resolvers, stamp
from saaae.errors import disk_error, user_error_in

INTERRUPTED = 130

SILENT_LAUNCHERS = ("slurm", "submitit")
"""Launchers whose jobs print into files."""

register_resolvers()  # also in a process that a launcher starts: it imports this to know what to do


def main(command: Command, config_dir: Path) -> None:
    """Checks the command line, then lets Hydra run it; exits with 0, 1 (a run failed) or 2 (the user's mistake)."""
    _add_plugins()
    full = "HYDRA_FULL_ERROR" in os.environ
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # a fault of this program deserves its whole stack trace
    args = get_args_parser().parse_args()
    config_dir = config_dir.resolve()
    task = Task(command)
    if not (args.help or args.hydra_help or args.info or args.shell_completion):
        if args.multirun and not command.compare:
            print("error: --multirun (-m): is for train.py; expected one command for each", file=sys.stderr)
            sys.exit(USAGE_ERROR)
        jobs, found = check_command_line(command, config_dir, args.overrides, args.multirun)
        if found:
            print("\n".join(f"error: {line}" for line in found), file=sys.stderr)
            sys.exit(USAGE_ERROR)
        if args.multirun and not args.cfg:
            overrides = OverridesParser.create().parse_overrides(args.overrides)
            sweep = sweep_folder_of(command, config_dir, overrides)
            task.launch = Launch(sweep, stamp(), chosen("hydra/launcher", overrides))
            if (task.launch.launcher or "").startswith(SILENT_LAUNCHERS):
                print(f"submitted    what the jobs print is in {sweep / '.submitit'}", flush=True)
            task.num_jobs = len(jobs) if chosen("hydra/sweeper", overrides) in GRID_SWEEPERS else None
            sys.argv += [shared_overrides(overrides), f"hydra.sweep.dir={in_quotes(str(task.launch.sweep))}"]
    try:
        hydra.main(version_base="1.3", config_path=str(config_dir), config_name=command.config_name)(task)()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except OSError as error:  # Hydra makes the run folder before there is a job
        if not (fault := disk_error(error)):
            raise
        print(f"error: {fault}", file=sys.stderr)
        sys.exit(FAILED)
    except Exception as error:
        mistake, launcher = user_error_in(error), task.launch and task.launch.launcher
        if not mistake and (full or not launcher):
            raise
        said = " ".join(str(error).split()) or type(error).__name__
        print(f"error: {mistake or f'hydra/launcher={launcher}: {said}'}", file=sys.stderr)
        sys.exit(USAGE_ERROR if mistake else FAILED)
    finally:
        status = summarize(task, args.overrides) if task.launch else DONE
    sys.exit(status)


def _add_plugins() -> None:
    """Hydra looks for plugins in the package `hydra_plugins` of all folders that Python imports from."""
    folder = str(Path(__file__).parents[1] / "plugins")
    if folder not in sys.path:
        sys.path.append(folder)
