"""The jobs of a multirun: their folders, how each ended, the summary at the end."""

import contextlib
import shlex
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from saaae.cli.command import Command
from saaae.cli.dry_run import Search, check_job
from saaae.cli.jobs import DONE, FAILED, USAGE_ERROR, Launch, Outcome, exit_status
from saaae.config.resolvers import OUTPUTS
from saaae.errors import Pruned, RunFailedError, UserError, disk_error, user_error_in
from saaae.runs.folder import RunFolder
from saaae.runs.status import is_locked
from saaae.signals import Interrupted
from saaae.sweeps.runs import chosen_runs, runs_of, variants_of
from saaae.training.distributed import rank


def compare(sweep: Path, baseline: int | None = None, chosen: Sequence[Path] = ()) -> None:
    """Writes the leaderboard of a sweep and prints its warnings, its rankings and where it is.

    Args:
        sweep: The folder of the sweep, or that of the pages if runs are chosen.
        baseline: Number of the variant that the others are compared with.
        chosen: Run folders to compare instead of those of a sweep.

    Raises:
        UserError: If no run has finished, or the baseline is none of the variants.
    """
    from saaae.sweeps.leaderboard import ranking_lines, warnings_of, write_leaderboard

    runs = chosen_runs(chosen, sweep) if chosen else runs_of(sweep)
    title = f"Leaderboard of {len(runs)} runs" if chosen else ""
    written = write_leaderboard(sweep, baseline, runs, title)
    variants = variants_of(runs)
    for line in [*(f"warning: {warning}" for warning in warnings_of(variants)), *ranking_lines(variants)]:
        print(line)
    for number, path in enumerate(written):
        print(f"{'' if number else 'leaderboard':<13}{path}")


class Task:
    """A job as a launcher runs it, here or in another process: a usage error is one line, and in a multirun a failing
    job does not stop the others.

    Args:
        command: The entry point.

    Attributes:
        launch: The multirun that the job is of; None for a single run.
        num_jobs: How many jobs it has; None where a sweeper decides.
        groups: Options of every config group, for the check of a multirun's job.
    """

    def __init__(self, command: Command) -> None:
        self.command = command
        self.launch: Launch | None = None
        self.num_jobs: int | None = None
        self.groups: dict[str, list[str]] = {}

    def __call__(self, cfg: DictConfig) -> Any:
        """Does the work.

        Returns:
            The return value of the command; None where it failed.
        """
        if self.launch is None:
            value, status, _ = self._answer(cfg)
            return value if status == DONE else sys.exit(status)
        job = HydraConfig.get().job
        started = Outcome(job.num, HydraConfig.get().runtime.output_dir)
        if rank() > 0:
            return self._answer(cfg)[0]
        print(f"\n[{job.num + 1}{f'/{self.num_jobs}' if self.num_jobs else ''}] {job.override_dirname}", flush=True)
        self.launch.record(started)
        try:
            value, status, why = self._answer(cfg)
        except Interrupted as stop:
            self.launch.record(started._replace(status=stop.status, why=stop.signal))
            if self.launch.launcher not in (None, "basic"):  # the end of a launcher's worker would end others
                return None
            raise
        self.launch.record(started._replace(status=status, why=why))
        return value

    def _answer(self, cfg: DictConfig) -> tuple[Any, int, str]:
        """The return value of the command, the exit status and its reason."""
        try:
            if self.launch is not None:  # a large grid or a sweeper's trial is not checked before
                check_job(self.command, cfg, list(HydraConfig.get().overrides.task), self.groups)
            return self.command.run(cfg), DONE, ""
        except (Interrupted, KeyboardInterrupt):
            remove_if_empty(Path(HydraConfig.get().runtime.output_dir))
            raise
        except Pruned as stop:
            return None, DONE, str(stop)
        except Exception as error:
            usage_error, disk = user_error_in(error), disk_error(error)
            why = disk or str(usage_error or error) or type(error).__name__
            known = usage_error or disk or isinstance(error, RunFailedError)
            print(f"error: {why}" if known else traceback.format_exc(), file=sys.stderr)
            remove_if_empty(Path(HydraConfig.get().runtime.output_dir))
            return None, USAGE_ERROR if usage_error else FAILED, why


def remove_if_empty(folder: Path) -> None:
    """The folder that Hydra made, if nothing came of it."""
    with contextlib.suppress(OSError):
        folder.rmdir()
        if folder.parent.parent.name == OUTPUTS.name:
            folder.parent.rmdir()


def sweep_folder_of(command: Command, search: Search, overrides: list[Override]) -> Path:
    """Folder of a multirun, found once: in the process of a job the time of the launch is not known any more."""
    words = [str(override.input_line) for override in overrides if not override.is_sweep_override()]
    with initialize_config_dir(str(search.own), version_base="1.3"):
        cfg = compose(command.config_name, search.overrides(words), return_hydra_config=True)
    return Path(str(cfg.hydra.sweep.dir))


def summarize(task: Task, arguments: list[str], config_dir: str | None = None) -> int:
    """Prints how every job of a multirun ended, how they compare, and what to do next.

    Args:
        task: The task that the jobs ran.
        arguments: Overrides on the command line.
        config_dir: `--config-dir` on the command line.

    Returns:
        The exit status of it all.
    """
    assert task.launch is not None
    outcomes, sweep = task.launch.outcomes(), task.launch.sweep
    if not outcomes:
        return DONE
    task.launch.cleanup()
    print(f"\n{task.num_jobs or len(outcomes)} jobs in {sweep}")
    for outcome in outcomes:
        state, why = outcome.state, outcome.why
        if state == "lost" and is_locked(RunFolder(outcome.folder)):
            state, why = "running", "not finished yet; repeat the command later"
        elif state == "lost":
            why = "its process was killed; repeat the command to continue"
        print(f"  {state:<11}{Path(outcome.folder).name}  {why}".rstrip())
    if task.num_jobs and len(outcomes) < task.num_jobs:
        print(f"  {task.num_jobs - len(outcomes)} not started; repeat the command to continue")
    try:
        if task.command.compare:
            task.command.compare(sweep)
    except UserError as error:
        if any(outcome.state == "done" for outcome in outcomes):  # else no job has finished, as printed above
            print(f"warning: no leaderboard ({error})", file=sys.stderr)
    except Exception as error:  # how the jobs ended matters more
        print(f"warning: no leaderboard ({error}); make it with python evaluate.py run={sweep}", file=sys.stderr)
    print(f"curves       tensorboard --logdir {sweep}")
    if not any(argument.startswith(("name=", "hydra.sweep.dir=")) for argument in arguments):
        own = [f"--config-dir={config_dir}"] if config_dir else []
        print(f"repeat       python train.py -m {shlex.join([*own, f'name={sweep.name}', *arguments])}")
    return exit_status(outcomes)


def shared_overrides(overrides: list[Override]) -> str:
    """An override that keeps what all jobs of a sweep share out of their folders' names."""
    shared = [o.get_key_element().lstrip("+~") for o in overrides if not o.is_sweep_override()]
    return f"hydra.job.config.override_dirname.exclude_keys=[{','.join(shared)}]"
