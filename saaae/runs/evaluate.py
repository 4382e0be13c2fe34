"""The job behind evaluate.py: tests a trained model again, from its folder or checkpoint alone."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from saaae.errors import UserError
from saaae.runs.allocator import keep_freed_blocks
from saaae.runs.door import Door
from saaae.runs.folder import RunFolder, key_of, write_json
from saaae.runs.processes import rank
from saaae.runs.schema import Evaluate
from saaae.runs.sweep import compare, is_sweep
from saaae.runs.trust import check_trusted
from saaae.runs.validate import combinations, refuse_faults

if TYPE_CHECKING:
    from saaae.data.datamodule import ImageDataModule
    from saaae.models.lightning import AutoencoderModule


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
        if not folder.checkpoints.is_dir():
            raise UserError(f"{folder.path}: no checkpoint yet; the first is written after the first epoch")
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
    check_trusted(stored, Path(cfg.run or cfg.checkpoint), cfg.trust)
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
    if cfg.run and is_sweep(Path(cfg.run)):
        return _check_sweep(overrides)
    if cfg.baseline is not None:
        raise UserError(f"baseline={cfg.baseline}: goes with run=<sweep folder>")
    checkpoint_path(cfg)
    if cfg["class"] is not None and not cfg.generate:
        raise UserError(f"class={cfg['class']}: goes with generate=<number of images>")
    if cfg.run:
        for line in combinations(configuration(cfg, RunFolder(cfg.run).full_config(), overrides)):
            raise UserError(line)


def _check_sweep(overrides: list[str]) -> None:
    """A sweep is compared by what its runs have measured.

    Raises:
        UserError: If anything is said that would measure again.
    """
    keys = [key_of(override) for override in overrides]
    for key in keys:
        if key not in ("run", "baseline") and not key.startswith("hydra."):
            raise UserError(
                f"{key}: not with a sweep, whose runs are compared as they were tested; evaluate one of them"
            )


def target_folder(folder: RunFolder, checkpoint: Path, data: str, cfg: DictConfig, overrides: list[str]) -> Path:
    """Where the results go: told apart by data and their settings, checkpoint, kind of code and limit."""
    own = checkpoint.parent == folder.checkpoints or checkpoint.parent == folder.path
    parts = [data, checkpoint.stem if own else f"{checkpoint.parent.parent.name}-{checkpoint.stem}"]
    if settings := sorted(override for override in overrides if override.startswith("data.")):
        parts.append(hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:6])
    parts += ["sample"] if cfg.samples == "sample" else []
    parts += [] if cfg.limit_batches is None else [f"{cfg.limit_batches}-batches"]
    return folder.path / "evaluation" / "-".join(parts)


def run(cfg: DictConfig) -> dict[str, Any] | None:
    """Tests, prints the table and writes `<run>/evaluation/<data>-<checkpoint>/`; of a sweep compares the runs."""
    if cfg.run and is_sweep(Path(cfg.run)):
        compare(Path(cfg.run), cfg.baseline)
        return None
    path, overrides = checkpoint_path(cfg), list(HydraConfig.get().overrides.task)
    keep_freed_blocks()
    from saaae.runs.checkpoints import config_in
    from saaae.runs.devices import make_trainer
    from saaae.runs.exports import refuse_exports
    from saaae.runs.fit import build, lightning_module, set_up
    from saaae.runs.report import definitions, table
    from saaae.runs.results import is_whole, judged, run_record, run_test

    home = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    folder = RunFolder(cfg.run or home)
    full = configuration(cfg, folder.full_config() if cfg.run else config_in(path), overrides)
    set_up(full)
    model, data = build(full)
    refuse_exports(model, cfg)
    if cfg.get("data") is None and (differing := folder.other_data({"hash": data.split_hash(), **data.manifest()})):
        print(f"warning: these are not the data of the run ({differing}): it may have been trained on what tests it")
    module = lightning_module(model, data, full, latents=cfg.samples)
    trainer = make_trainer(
        full, folder, whole=True, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, limit_test_batches=full.trainer.limit_test_batches,
    )  # fmt: skip
    results = {"test": run_test(trainer, module, data, path), "run": run_record(full, data)}
    if rank() > 0:
        return results
    results["run"] |= {"checkpoint": str(path), "limit_test_batches": full.trainer.limit_test_batches}
    results["run"]["reconstructions"] = f"z = {cfg.samples}"
    data_name = HydraConfig.get().runtime.choices.get("data") or "own"
    found = RunFolder(target_folder(folder, path, data_name, cfg, overrides))
    results |= judged(module, data, results["test"], is_whole(full.trainer.limit_test_batches))
    print(table(f"test of {path}" + (f" on data={data_name}" if cfg.get("data") else ""), results))
    results["definitions"] = definitions(results["test"])
    write_json(found.metrics, results)
    if further := give_away(module, data, found, full, cfg, f"{path}: {data_name}"):
        write_json(found.metrics, results | further)
    print(f"written to   {found.path}")
    return results


def give_away(
    module: "AutoencoderModule",
    data: "ImageDataModule",
    found: RunFolder,
    full: DictConfig,
    cfg: DictConfig,
    title: str,
) -> dict[str, Any]:
    """Writes pictures and whatever files were asked for.

    Args:
        module: The tested model.
        data: Its data.
        found: Where the files go.
        full: The configuration of the evaluation.
        cfg: What evaluate.py was told.
        title: For the pictures.

    Returns:
        What is worth a place in metrics.json.
    """
    from saaae.runs.evidence import code_line, coded
    from saaae.runs.exports import save_arrays, save_generated
    from saaae.runs.results import draw

    found.path.mkdir(parents=True, exist_ok=True)
    model = module.model
    draw(module, data, found, title, full.pictures.count)
    if cfg.save_arrays:
        print(f"arrays       {save_arrays(model, data, cfg.save_arrays, found.path / 'arrays.npz', cfg.samples)}")
    if cfg.generate:
        path = found.path / "generated.png"
        print(f"generated    {save_generated(model, cfg.generate, cfg['class'], full.seed, path)}")
    if not cfg.code_steps:
        return {}
    codes = coded(model, data, list(cfg.code_steps), found.path)
    print("\n".join(map(code_line, codes)))
    return {"codes": codes}


EVALUATE = Door("evaluate", Evaluate, check, run, checked_later=frozenset({"data", "accelerator"}))
