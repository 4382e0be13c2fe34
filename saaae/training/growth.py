"""Trains a run that grows: its stages first, then itself."""

from saaae.errors import UserError
from saaae.runs.run import Run
from saaae.runs.stages import stages_before
from saaae.runs.status import locked, write_status
from saaae.signals import Interruption
from saaae.training.build import check_stages
from saaae.training.distributed import rank
from saaae.training.fit import fit
from saaae.training.objective import is_trial


def fit_in_stages(run: Run, interruption: Interruption) -> float | list[float] | None:
    """Trains the unfinished stages of a run, then the run itself; a run without stages is trained as it is.

    Each stage is a run in a folder of its own, and continued like any other, so a run that is killed in any of them
    goes on exactly there. Once the run itself has a checkpoint, it needs its stages no more.

    Args:
        run: The run.
        interruption: Whether a signal wants the run to stop.

    Returns:
        What `fit` returns for the run itself.

    Raises:
        UserError: If the weights of the model are not the same at all image sizes, or the run is a trial of a study.
    """
    stages = [] if run.folder.last.is_file() else stages_before(run)
    if stages:
        if is_trial():
            raise UserError("stages: not with hydra/sweeper=optuna, which compares the epochs of one stage")
        check_stages(run.cfg)
        for stage in stages:
            if stage.folder.record.is_file():
                stage.folder.check_same_config(stage.cfg)
        if rank() == 0:  # from here on `resume=` and status.json speak of the run
            run.folder.write_record(run.cfg, run.overrides, run.tags)
            write_status(run.folder, "running")
    for number, stage in enumerate(stages, 1):
        if not stage.folder.metrics.is_file():
            _print_stage(stage, number, len(stages) + 1)
            _fit_stage(stage, interruption)
    if stages:
        _print_stage(run, len(stages) + 1, len(stages) + 1)
    return fit(run, interruption)


def _print_stage(stage: Run, number: int, count: int) -> None:
    if rank() == 0:
        print(f"\nstage {number} of {count}: {stage.cfg.data.image_size} pixels", flush=True)


def _fit_stage(stage: Run, interruption: Interruption) -> None:
    if rank() > 0:
        fit(stage, interruption)
        return
    with locked(stage.folder):
        fit(stage, interruption)
        write_status(stage.folder, "done")
