"""A sweeper of Hydra's that asks an Optuna study what to try: `hydra/sweeper=optuna`.

Hydra imports it at every start, so nothing heavy is imported here.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Transformer
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from saaae.errors import UserError

if TYPE_CHECKING:
    import optuna

REPORTED = "reported"
"""What the trial that this one continues had reported, by epoch."""
CONTINUED = "continued as another trial"
"""Marks a trial whose process died: its parameters were queued again, and its run continues where it stopped."""


def distribution(override: Override) -> "optuna.distributions.BaseDistribution":
    """The values that a swept override may take: an interval (`tag(log, interval(...))`), a range or a choice.

    Raises:
        UserError: If there are none.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value: Any = override.value()
    try:
        if override.is_interval_sweep():
            whole = isinstance(value.start, int) and isinstance(value.end, int)
            return (IntDistribution if whole else FloatDistribution)(value.start, value.end, log="log" in value.tags)
        if override.is_range_sweep() and isinstance(value.start, int) and isinstance(value.step, int):
            steps: list[Any] = list(override.sweep_iterator())
            return IntDistribution(min(steps), max(steps), step=abs(value.step))
        return CategoricalDistribution([str(choice) for choice in override.sweep_iterator(Transformer.encode)])
    except ValueError as error:
        raise UserError(f"{override.input_line}: {str(error).splitlines()[0]}") from None


class OptunaSweeper(Sweeper):
    """Runs the trials of a study, side by side where the launcher does.

    The study lives in its storage: repeating the command continues it, interrupted trials first. What a trial
    tries is a function of the seed and of the trials that have ended, also over restarts.

    Args:
        storage: URL of the database of the study.
        study: Its name there.
        n_trials: Trials of the study, over all starts.
        n_jobs: Trials that are launched together; the next ones wait for all of them.
        seed: Seed of the sampler.
        sampler: Makes an Optuna sampler, given a seed.
        pruner: Gives up on trials; None for none. Several objectives have none.

    Raises:
        UserError: If a count is none.
    """

    def __init__(
        self, *, storage: str, study: str, n_trials: int, n_jobs: int, seed: int, sampler: Any, pruner: Any
    ) -> None:
        self.storage, self.study_name, self.n_trials, self.n_jobs = storage, study, n_trials, n_jobs
        self.seed, self.sampler, self.pruner = seed, sampler, pruner
        for key, value in (("n_trials", n_trials), ("n_jobs", n_jobs)):
            if not isinstance(value, int) or value < 1:
                raise UserError(f"hydra.sweeper.{key}={value}: expected a positive integer")

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.cfg = config
        self.jobs = Plugins.instance().instantiate_launcher(
            config=config, hydra_context=hydra_context, task_function=task_function
        )

    def sweep(self, arguments: list[str]) -> list[list[JobReturn]]:
        """Goes on with the study until it has its trials, then prints the best.

        Args:
            arguments: What was typed: swept overrides are tried, others are the same in all trials.

        Raises:
            UserError: If nothing is to be tried, another process works on the study, or it cannot be opened.
        """
        overrides = OverridesParser.create().parse_overrides(arguments)
        tried = {o.get_key_element(): distribution(o) for o in overrides if o.is_sweep_override()}
        if not tried:
            raise UserError(
                "hydra/sweeper=optuna: nothing to try; expected for instance "
                "'optimizer.lr=tag(log,interval(1e-4,1e-2))' or 'model=choice(vae,saaae)'"
            )
        fixed = [str(o.input_line) for o in overrides if not o.is_sweep_override()]
        folder = Path(self.cfg.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        with alone(folder):
            study = self._open(folder, fixed)
            returns = list(self._batches(study, tried, fixed))
        print("\n" + "\n".join(best_lines(study)), flush=True)
        return returns

    def _batches(self, study: "optuna.Study", tried: dict[str, Any], fixed: list[str]) -> Iterator[list[JobReturn]]:
        """Trials that are launched together; equal ones are one job."""
        number = 0
        while (left := self.n_trials - num_trials(study)) > 0:
            trials = [self._ask(study, tried) for _ in range(min(left, self.n_jobs))]
            runs = [(*fixed, *job_overrides(trial)) for trial in trials]
            first = {job: trial for job, trial in reversed([*zip(runs, trials, strict=True)])}
            jobs = list(dict.fromkeys(runs))
            launched = [[*job, *self._told(first[job])] for job in jobs]
            returns = dict(zip(jobs, self.jobs.launch(launched, initial_job_idx=number), strict=True))
            number += len(jobs)
            for trial, job in zip(trials, runs, strict=True):
                tell(study, trial, returns[job])
            yield list(returns.values())

    def _open(self, folder: Path, fixed: list[str]) -> "optuna.Study":
        """The study, new or continued; interrupted trials are queued again, with the values that they had reported."""
        import optuna

        from saaae.config.overrides import key_of
        from saaae.config.settings import is_runtime
        from saaae.training.objective import objectives, opened

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        settings = sorted(word for word in fixed if not is_runtime(key_of(word)))
        study = opened(self.storage, self.study_name, objectives(self.cfg), settings, self.pruner)
        for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            refuse_running(folder, trial, fixed)
            reported = {str(epoch): value for epoch, value in trial.intermediate_values.items()}
            study.enqueue_trial(trial.params, user_attrs={REPORTED: reported})
            optuna.trial.Trial(study, trial._trial_id).set_user_attr(CONTINUED, True)
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        return study

    def _ask(self, study: "optuna.Study", tried: dict[str, Any]) -> "optuna.Trial":
        """The next trial.

        Raises:
            UserError: If the study has tried the same key over other values, which Optuna cannot compare.
        """
        study.sampler = self.sampler(seed=self.seed + num_trials(study))
        try:
            trial = study.ask(tried)
        except ValueError as error:
            raise UserError(f"{study.study_name}: {str(error).splitlines()[0]}; choose another name") from None
        for epoch, value in trial.user_attrs.get(REPORTED, {}).items():
            trial.report(value, int(epoch))
        return trial

    def _told(self, trial: "optuna.Trial") -> list[str]:
        """What a job must know to ask whether it is to be pruned."""
        from saaae.training.objective import TRIAL

        if self.pruner is None or len(trial.study.directions) > 1:
            return []
        return [f"+hydra.job.env_set.{TRIAL}='{trial.number}'"]


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keeps a second process from going on with the same study.

    Raises:
        UserError: If one does.
    """
    from filelock import FileLock, Timeout

    try:
        with FileLock(folder / ".study.lock", blocking=False):
            yield
    except Timeout:
        raise UserError(f"{folder}: another process works on this study; wait for it, or choose another name") from None


def refuse_running(folder: Path, trial: "optuna.trial.FrozenTrial", fixed: list[str]) -> None:
    """A job may outlive the process that launched it.

    Raises:
        UserError: If the trial's job is still running.
    """
    from saaae.config.resolvers import job_folder
    from saaae.runs.folder import RunFolder
    from saaae.runs.status import is_locked

    digest = job_folder("", [*fixed, *job_overrides(trial)])
    for path in folder.glob(f"*{digest}"):
        if is_locked(RunFolder(path)):
            raise UserError(f"{path}: this trial of the study is still running; repeat the command when it has ended")


def num_trials(study: "optuna.Study") -> int:
    """Trials of a study, each counted once, those in the queue not."""
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False)
    return sum(trial.state != TrialState.WAITING and CONTINUED not in trial.user_attrs for trial in trials)


def job_overrides(trial: "optuna.Trial | optuna.trial.FrozenTrial") -> list[str]:
    """The parameters of a trial as words on the command line."""
    return [f"{key}={value}" for key, value in trial.params.items()]


def tell(study: "optuna.Study", trial: "optuna.Trial", job: JobReturn) -> None:
    """Tells the study what became of a trial."""
    from optuna.trial import TrialState

    from saaae.runs.folder import RunFolder
    from saaae.runs.status import read_status

    value = job.return_value
    if value is not None:
        study.tell(trial, [float(part) for part in (value if isinstance(value, Sequence) else [value])])
    else:
        assert job.hydra_cfg is not None
        pruned = read_status(RunFolder(job.hydra_cfg.hydra.runtime.output_dir)).get("state") == "pruned"
        study.tell(trial, state=TrialState.PRUNED if pruned else TrialState.FAIL)


def best_lines(study: "optuna.Study") -> list[str]:
    """The best trials, those that no other beats in every objective where there are several."""
    from optuna.trial import TrialState

    from saaae.training.objective import OBJECTIVES

    trials = study.get_trials(deepcopy=False)
    counts = {state: sum(trial.state == state for trial in trials) for state in TrialState}
    continued = sum(CONTINUED in trial.user_attrs for trial in trials)
    lines = [
        f"study        {study.study_name}: {counts[TrialState.COMPLETE]} trials done, "
        f"{counts[TrialState.PRUNED]} pruned, {counts[TrialState.FAIL] - continued} failed"
    ]
    names = study.user_attrs[OBJECTIVES]
    for trial in study.best_trials:
        values = "  ".join(f"{name} {value:.4f}" for name, value in zip(names, trial.values, strict=True))
        lines.append(f"best         {values}   {' '.join(job_overrides(trial))}")
    return lines
