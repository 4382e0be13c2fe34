"""The job behind evaluate.py: tests a trained model again, from its folder or checkpoint alone."""

from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from saaae.errors import UserError
from saaae.runs.allocator import keep_freed_blocks
from saaae.runs.door import Door
from saaae.runs.folder import RunFolder, write_json
from saaae.runs.processes import rank
from saaae.runs.schema import Evaluate
from saaae.runs.validate import combinations, refuse_faults


def checkpoint_path(cfg: DictConfig) -> Path:
    """The checkpoint that is asked for.

    Raises:
        UserError: If neither a run nor a checkpoint is given, or the file is missing.
    """
    if cfg.checkpoint in ("best", "last"):
        if not cfg.run:
            raise UserError("run: missing; expected run=<run folder> or checkpoint=<path>")
        folder = RunFolder(cfg.run)
        folder.config()
        path = folder.best if cfg.checkpoint == "best" else folder.last
    else:
        path = Path(cfg.checkpoint)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; expected best, last or the path of a .ckpt file")
    return path


def configuration(cfg: DictConfig, stored: DictConfig, overrides: list[str]) -> DictConfig:
    """The run's own configuration with what evaluate.py was told: data, accelerator, threads, a limit.

    Raises:
        UserError: If the other data set cannot have the images that the model was built for.
    """
    result = stored.copy()
    for key in ("data_dir", "cache_dir", "threads", "importance_samples"):
        if cfg[key] is not None:
            result[key] = str(Path(cfg[key]).absolute()) if key.endswith("_dir") else cfg[key]
    if cfg.limit_batches is not None:
        result.trainer.limit_test_batches = cfg.limit_batches
    if cfg.get("accelerator") is not None:
        result.accelerator = cfg.accelerator
    if cfg.get("data") is not None:
        result.model = OmegaConf.create(OmegaConf.to_container(stored.model, resolve=True))  # its shapes stay
        result.data = OmegaConf.create(OmegaConf.to_container(cfg.data, resolve=False))
        size = stored.model.image_size
        if any(override.startswith("data.image_size=") for override in overrides) and result.data.image_size != size:
            raise UserError(f"data.image_size={result.data.image_size}: the model was built for {size}")
        result.data.image_size = size
        if result.data.channels != stored.model.image_channels:
            raise UserError(f"data.channels={result.data.channels}: the model has {stored.model.image_channels}")
    refuse_faults(result)
    return result


def check(cfg: DictConfig, overrides: list[str]) -> None:
    """Everything that can be refused before torch is imported.

    Raises:
        UserError: Naming the key, folder or file.
    """
    checkpoint_path(cfg)
    if cfg["class"] is not None and not cfg.generate:
        raise UserError(f"class={cfg['class']}: goes with generate=<number of images>")
    if cfg.run:
        for line in combinations(configuration(cfg, RunFolder(cfg.run).config(), overrides)):
            raise UserError(line)


def target_folder(folder: RunFolder, checkpoint: Path, data: str, limit: int | float | None) -> Path:
    """Where the results go: told apart by data, checkpoint and limit."""
    own = checkpoint.parent == folder.checkpoints or checkpoint.parent == folder.path
    parts = [data, checkpoint.stem if own else f"{checkpoint.parent.parent.name}-{checkpoint.stem}"]
    parts += [] if limit is None else [f"{limit}-batches"]
    return folder.path / "evaluation" / "-".join(parts)


def run(cfg: DictConfig) -> dict[str, Any]:
    """Tests, prints the table and writes `<run>/evaluation/<data>-<checkpoint>/metrics.json`."""
    path, overrides = checkpoint_path(cfg), list(HydraConfig.get().overrides.task)
    keep_freed_blocks()
    import torch

    from saaae.noise import IndexedNoise
    from saaae.runs.checkpoints import config_in
    from saaae.runs.exports import refuse_generation, save_arrays, save_generated
    from saaae.runs.fit import build, make_trainer, run_record, run_test, set_up
    from saaae.runs.report import table

    home = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    folder = RunFolder(cfg.run or home)
    full = configuration(cfg, folder.config() if cfg.run else config_in(path), overrides)
    set_up(full)
    model, data = build(full)
    if cfg.generate:
        refuse_generation(model, cfg["class"])
    if cfg.get("data") is None and (differing := folder.other_data({"hash": data.split_hash(), **data.manifest()})):
        print(f"warning: these are not the data of the run ({differing}): it may have been trained on what tests it")
    model.reconstruct_from = cfg.samples
    trainer = make_trainer(full, folder, logger=False, enable_checkpointing=False, enable_progress_bar=False,
                           enable_model_summary=False, limit_test_batches=full.trainer.limit_test_batches)  # fmt: skip
    results = {"test": run_test(trainer, model, data, path), "run": run_record(full, data)}
    if rank() > 0:
        return results
    results["run"] |= {"checkpoint": str(path), "limit_test_batches": full.trainer.limit_test_batches}
    results["run"]["reconstructions"] = f"z = {cfg.samples}"
    data_name = HydraConfig.get().runtime.choices.get("data") or "own"
    target = target_folder(folder, path, data_name, cfg.limit_batches) / "metrics.json"
    write_json(target, results)
    print(table(f"test of {path}" + (f" on data={data_name}" if cfg.get("data") else ""), results["test"]))
    print(f"written to {target}")
    model.eval()  # Lightning has put back the mode that it found
    if cfg.save_arrays:
        print(f"arrays       {save_arrays(model, data, cfg.save_arrays, target.with_name('arrays.npz'))}")
    if cfg.generate:
        noise = IndexedNoise(full.seed, torch.arange(cfg.generate, device=model.device))
        images = model.sample(cfg.generate, noise, cfg["class"])
        print(f"generated    {save_generated(images, target.with_name('generated.png'))}")
    return results


EVALUATE = Door("evaluate", Evaluate, check, run, checked_later=frozenset({"data", "accelerator"}))
