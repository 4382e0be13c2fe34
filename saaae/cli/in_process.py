"""Training from Python: what `python train.py` does, in the process that asks for it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from hydra.version import VersionBase
from omegaconf import DictConfig

from saaae.cli.dry_run import Search, check_command_line
from saaae.cli.multirun import remove_if_empty
from saaae.cli.train import TRAIN
from saaae.config.folder import config_folder
from saaae.config.overrides import quote_paths
from saaae.config.resolvers import register_resolvers, stamp
from saaae.errors import RunFailedError, UserError, folder_error, user_error_in
from saaae.runs.folder import RunFolder
from saaae.runs.listing import ListedRun, listed
from saaae.runs.run import resumed
from saaae.signals import Interrupted
from saaae.training.distributed import rank, started_by_launcher

ONE_RUN = "saaae.train trains one run; expected python train.py -m for a sweep"


def train(overrides: Sequence[str], config_dir: str | Path | None = None) -> ListedRun:
    """Trains a run in this process, see `saaae.train`."""
    words = _words(overrides)
    register_resolvers()
    stamp.cache_clear()  # each run without a name has a folder of its own
    search = Search(config_folder(), None if config_dir is None else str(config_dir))
    with _own_hydra():
        errors = check_command_line(TRAIN, search, words, multirun=False)[1]
        if errors:
            raise UserError("\n".join(errors))
        job = _Job()
        with initialize_config_dir(str(search.own), TRAIN.config_name, "1.3"):
            hydra = GlobalHydra.instance().hydra
            assert hydra is not None
            try:
                hydra.run(TRAIN.config_name, job, search.overrides(words), with_log_configuration=False)
            except Interrupted as stop:
                if stop.signal != "SIGINT":
                    raise
                raise KeyboardInterrupt from None
            except OSError as error:  # Hydra makes the run folder before there is a job
                job.error = error
    if job.error is not None:
        _raise(job.error)
    assert job.folder is not None
    return listed(job.folder)


def _raise(error: Exception) -> NoReturn:
    """Raises the error of a job, as one line where the command prints one.

    Raises:
        UserError: If it is the user's.
        RunFailedError: If the run failed, also because of the file system.
    """
    if (usage_error := user_error_in(error)) is not None:
        raise UserError(str(usage_error)) from None
    if isinstance(error, OSError) and (reason := folder_error(error)):
        raise RunFailedError(reason) from error
    raise error


def _words(overrides: Sequence[str]) -> list[str]:
    """The overrides, if they are those of one run.

    Raises:
        UserError: Naming one that is not, and what was expected.
    """
    if isinstance(overrides, str):
        raise UserError(f"{overrides}: expected a list of overrides, such as ['model=vae', 'seed=1']")
    for word in overrides:
        if not isinstance(word, str):
            raise UserError(f"{word!r}: expected text, such as 'seed=1'")
        if word in ("-m", "--multirun"):
            raise UserError(f"{word}: {ONE_RUN}")
        if word.startswith("--config-dir"):
            raise UserError(f"{word}: expected saaae.train(..., config_dir=<folder>)")
        if word.startswith("-"):
            raise UserError(f"{word}: expected key=value; options of the command line are for python train.py")
    words = quote_paths(list(overrides))
    try:
        parsed = OverridesParser.create().parse_overrides(words)
    except OverrideParseException:
        return words  # refused with an explanation by the check of the command line
    for override in parsed:
        if override.is_sweep_override() or override.key_or_group == "hydra.mode":
            raise UserError(f"{override.input_line}: {ONE_RUN}")
    return words


@contextmanager
def _own_hydra() -> Iterator[None]:
    """Sets aside what Hydra has in this process, such as a `hydra.initialize` of a notebook, and puts it back."""
    version, callers = VersionBase.instance(), GlobalHydra.instance().hydra
    base = version.getbase()
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = callers
        version.version_base = base


class _Job:
    """The one job that Hydra runs.

    Attributes:
        folder: Its run folder, once Hydra has made it.
        error: How it failed; Hydra would print its own line about it.
    """

    def __init__(self) -> None:
        self.folder: RunFolder | None = None
        self.error: Exception | None = None

    def __call__(self, cfg: DictConfig) -> None:
        hydra = HydraConfig.get()
        self.folder = RunFolder(hydra.runtime.output_dir)
        try:
            _check_one_process(cfg, list(hydra.overrides.task))
            from saaae.training.process import unchanged_process

            with unchanged_process():
                TRAIN.run(cfg)
        except Exception as error:
            self.error = error
        finally:
            remove_if_empty(self.folder.path)


def _check_one_process(cfg: DictConfig, overrides: list[str]) -> None:
    """Checks that the run needs this process only: further ones would repeat the caller's program.

    Raises:
        UserError: Naming the setting.
    """
    if started_by_launcher() or rank() > 0:
        raise UserError("saaae.train: trains in one process; expected python train.py for torchrun and srun")
    accelerator = (resumed(RunFolder(cfg.resume), cfg, overrides) if cfg.resume else cfg).accelerator
    if accelerator.devices != 1 or accelerator.num_nodes != 1:
        from saaae.training.devices import num_processes

        if num_processes(accelerator) > 1:
            raise UserError(
                f"accelerator.devices={accelerator.devices}: saaae.train trains in one process; expected 1, "
                "or python train.py for several"
            )
