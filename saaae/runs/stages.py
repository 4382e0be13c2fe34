"""Runs that grow: each stage is a run of its own, on smaller images, in the folder of the run that starts from it."""

from saaae.errors import UserError
from saaae.runs.folder import RunFolder
from saaae.runs.run import Run


def stage_before(run: Run) -> Run | None:
    """The run that a growing run starts from: the last of `stages`, with the others before it; None without stages.

    Its folder is in that of the run, so that both can be moved.
    """
    if not run.cfg.stages:
        return None
    *earlier, (size, epochs) = run.cfg.stages
    cfg = run.cfg.copy()
    cfg.stages, cfg.data.image_size = earlier, size
    cfg.trainer.max_epochs, cfg.trainer.max_steps, cfg.trainer.max_time = epochs, -1, None
    typed = [f"data.image_size={size}", f"trainer.max_epochs={epochs}"]
    return Run(cfg, RunFolder(run.folder.path / f"stage-{size}"), [*run.overrides, *typed], run.tags)


def stages_before(run: Run) -> list[Run]:
    """All stages before a run, the smallest images first."""
    before = stage_before(run)
    return [*stages_before(before), before] if before else []


def source_of(run: Run) -> str | None:
    """Where the weights are that a run starts from: its stage before, or `init_from`; None for random ones."""
    before = stage_before(run)
    return str(before.folder.path) if before else run.cfg.init_from


def check_sizes(stages: list[list[int]], image_size: int) -> None:
    """Checks that images grow from stage to stage.

    Raises:
        UserError: If they do not.
    """
    sizes = [size for size, _ in stages] + [image_size]
    if sizes != sorted(set(sizes)):
        shown = str([list(stage) for stage in stages]).replace(" ", "")
        raise UserError(f"stages={shown}: expected image sizes that grow, all below data.image_size={image_size}")
