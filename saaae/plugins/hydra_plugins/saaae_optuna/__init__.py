"""A sweeper of Hydra's that asks an Optuna study what to try: `hydra/sweeper=optuna`.

Hydra imports it at every start, so nothing heavy is imported here.
"""

from collections.abc import Sequence
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

CONTINUED = "continued as another trial"
"""Mark of a trial whose process died: its parameters were queued again, and its run goes on where it stopped."""


def distribution(override: Override) -> "optuna.distributions.BaseDistribution":
    """The values that a swept override may take: an interval (`tag(log, interval(...))`), a range or a choice."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value: Any = override.value()
    if override.is_interval_sweep():
        whole = isinstance(value.start, int) and isinstance(value.end, int)
        return (IntDistribution if whole else FloatDistribution)(value.start, value.end, log="log" in value.tags)
    if override.is_range_sweep() and isinstance(value.start, int) and isinstance(value.step, int):
        steps: list[Any] = list(override.sweep_iterator())
        return IntDistribution(min(steps), max(steps), step=abs(value.step))
    return CategoricalDistribution([str(choice) for choice in override.sweep_iterator(Transformer.encode)])


class OptunaSweeper(Sweeper):
    """Runs the trials of a study, side by side where the launcher does.

    The study lives in its storage: repeating the command goes on with it, trials that were cut off first. What a trial
    tries is a function of the seed and of the trials that have been told, also over restarts.

    Args:
        storage: URL of the database of the study.
        study: Its name there.
        n_trials: Trials of the study, over all starts.
        n_jobs: Trials that are launched together; the next ones wait for all of them.
        seed: Seed of the sampler.
        sampler: Makes an Optuna sampler, given a seed.
        pruner: Gives up on trials; None for none. Several objectives have none.
        params: What is tried, `{key: sweep}`, beside what is typed.

    Raises:
        UserError: If a count is none.
    """

    def __init__(
        self,
        *,
        storage: str,
        study: str,
        n_trials: int,
        n_jobs: int,
        seed: int,
        sampler: Any,
        pruner: Any,
        params: dict[str, str] | None,
    ) -> None:
        self.storage, self.study_name, self.n_trials, self.n_jobs = storage, study, n_trials, n_jobs
        self.seed, self.sampler, self.pruner = seed, sampler, pruner
        self.params = dict(params or {})
        for key, value in (("n_trials", n_trials), ("n_jobs", n_jobs)):
            if not isinstance(value, int) or value < 1:
                raise UserError(f"hydra.sweeper.{key}={value}: expected a positive integer")

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """What Hydra tells every sweeper."""
        self.cfg = config
        self.jobs = Plugins.instance().instantiate_launcher(
            config=config, hydra_context=hydra_context, task_function=task_function
        )

    def sweep(self, arguments: list[str]) -> list[list[JobReturn]]:
        """Goes on with the study until it has its trials, then prints the best.

        Args:
            arguments: What was typed: swept overrides are tried, others are the same in all trials.

        Raises:
            UserError: If nothing is to be tried, or the study cannot be opened.
        """
        overrides = OverridesParser.create().parse_overrides(
            [*(f"{key}={sweep}" for key, sweep in self.params.items()), *arguments]
        )
        tried = {o.get_key_element(): distribution(o) for o in overrides if o.is_sweep_override()}
        fixed = [str(o.input_line) for o in overrides if not o.is_sweep_override()]
        if not tried:
            raise UserError(
                "hydra/sweeper=optuna: nothing to try; expected for instance "
                "'optimizer.lr=tag(log,interval(1e-4,1e-2))' or 'model=choice(vae,saaae)'"
            )
        study = self._open()
        returns: list[list[JobReturn]] = []
        number = 0
        while (left := self.n_trials - num_trials(study)) > 0:
            trials = [self._ask(study, tried) for _ in range(min(left, self.n_jobs))]
            jobs = [[*fixed, *job_overrides(trial), *self._told(trial)] for trial in trials]
            returns.append(list(self.jobs.launch(jobs, initial_job_idx=number)))
            number += len(jobs)
            for trial, job in zip(trials, returns[-1], strict=True):
                tell(study, trial, job)
        print("\n" + "\n".join(best_lines(study)), flush=True)
        return returns

    def _open(self) -> "optuna.Study":
        """The study, new or gone on with; trials that no process works on any more are queued again.

        Raises:
            UserError: If the storage cannot be opened, or holds a study of other objectives.
        """
        import optuna

        from saaae.runs.study import objectives, opened

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        Path(self.cfg.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
        names = objectives(self.cfg)
        study = opened(self.storage, self.study_name, names, self.pruner)
        for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            study.enqueue_trial(trial.params)
            optuna.trial.Trial(study, trial._trial_id).set_user_attr(CONTINUED, True)
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        return study

    def _ask(self, study: "optuna.Study", tried: dict[str, "optuna.distributions.BaseDistribution"]) -> Any:
        study.sampler = self.sampler(seed=self.seed + num_trials(study))
        return study.ask(tried)

    def _told(self, trial: "optuna.Trial") -> list[str]:
        """What a job must know to ask whether it is to be pruned."""
        from saaae.runs.study import TRIAL

        if self.pruner is None or len(trial.study.directions) > 1:
            return []
        return [f"+hydra.job.env_set.{TRIAL}='{trial.number}'"]


def num_trials(study: "optuna.Study") -> int:
    """Trials of a study, each counted once, those in the queue not."""
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False)
    return sum(trial.state != TrialState.WAITING and CONTINUED not in trial.user_attrs for trial in trials)


def job_overrides(trial: "optuna.Trial") -> list[str]:
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

    from saaae.runs.study import OBJECTIVES

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
        lines.append(f"best         {values}   {' '.join(job_overrides(trial))}")  # type: ignore[arg-type]
    return lines
