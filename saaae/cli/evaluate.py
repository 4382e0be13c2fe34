"""evaluate.py: tests a trained model again, from its run folder or checkpoint alone."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig, OmegaConf

from saaae.atomic import read_json_or_empty, write_json
from saaae.cli.command import Command
from saaae.cli.launchers import is_installed
from saaae.cli.multirun import compare
from saaae.config.overrides import key_of
from saaae.config.resolvers import OUTPUTS
from saaae.config.schema import Evaluate
from saaae.config.trust import check_trusted
from saaae.config.validation import check_stored_config, clashes
from saaae.errors import UserError
from saaae.runs.folder import RunFolder
from saaae.runs.run import Run, absolute_path, keep_classes
from saaae.sweeps.runs import chosen_runs, is_sweep
from saaae.training.distributed import job_processes, rank
from saaae.training.malloc import keep_freed_blocks

if TYPE_CHECKING:
    from saaae.data.datamodule import ImageDataModule, Manifest
    from saaae.models.autoencoder import ImageAutoencoder


def checkpoint_path(cfg: DictConfig) -> Path:
    """The requested checkpoint.

    Raises:
        UserError: If neither a run nor a checkpoint is given, or the file is missing.
    """
    if cfg.checkpoint in ("best", "last"):
        if not cfg.run:
            raise UserError("run: missing; expected run=<run folder> or checkpoint=<path>")
        folder = RunFolder(cfg.run)
        folder.config()
        path = folder.best if cfg.checkpoint == "best" else folder.last
        if not folder.checkpoints.is_dir() and folder.metrics.is_file():
            raise UserError(f"{folder.path}: its checkpoints are missing, so it cannot be tested again")
        if not folder.checkpoints.is_dir():
            raise UserError(f"{folder.path}: no checkpoint yet; the first is written after the first epoch")
    else:
        path = Path(cfg.checkpoint)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; expected best, last or the path of a .ckpt file")
    return path


def configuration(cfg: DictConfig, stored: DictConfig, overrides: list[str]) -> DictConfig:
    """The run's own configuration with the overrides of evaluate.py: data, accelerator, threads, a limit.

    The limit of test batches is the run's own where none is typed and the data are the run's own.

    Raises:
        UserError: If the other data set cannot have the images that the model was built for.
    """
    check_trusted(stored, Path(cfg.run or cfg.checkpoint), cfg.trust)
    result = stored.copy()
    for key in ("data_dir", "cache_dir", "threads", "importance_samples"):
        if cfg[key] is not None:
            result[key] = absolute_path(cfg[key]) if key.endswith("_dir") else cfg[key]
    if cfg.get("accelerator") is not None:
        result.accelerator = cfg.accelerator
    if cfg.get("data") is not None:
        result.model = OmegaConf.create(OmegaConf.to_container(stored.model, resolve=True))  # its shapes stay
        result.data = OmegaConf.create(OmegaConf.to_container(cfg.data, resolve=False))
        keep_classes(result.data, stored.data)
        size = stored.model.image_size
        if any(override.startswith("data.image_size=") for override in overrides) and result.data.image_size != size:
            raise UserError(f"data.image_size={result.data.image_size}: the model was built for {size}")
        result.data.image_size = size
        if result.data.channels != stored.model.image_channels:
            raise UserError(f"data.channels={result.data.channels}: the model has {stored.model.image_channels}")
    if "limit_batches" in map(key_of, overrides) or is_other_data(cfg, result, stored):
        result.trainer.limit_test_batches = cfg.limit_batches
    check_stored_config(result)
    for line in clashes(result):
        raise UserError(line)
    return result


def is_other_data(cfg: DictConfig, full: DictConfig, stored: DictConfig) -> bool:
    """Whether `data=` names another data set, or another folder, than the run was trained on.

    Args:
        cfg: The configuration of evaluate.py.
        full: That of the evaluation.
        stored: That of the run.
    """
    if cfg.get("data") is None:
        return False
    (kind, root), (own_kind, own_root) = (
        (OmegaConf.select(each, "data._target_"), OmegaConf.select(each, "data.root", default=""))
        for each in (full, stored)
    )
    return kind != own_kind or Path(str(root)).resolve() != Path(str(own_root)).resolve()


def check(cfg: DictConfig, overrides: list[str]) -> None:
    """Everything that can be refused before torch is imported.

    Raises:
        UserError: Naming the key, folder or file.
    """
    if isinstance(cfg.run, ListConfig):
        chosen_runs(list(map(Path, cfg.run)), Path())
        return _check_sweep(overrides)
    if cfg.run and is_sweep(Path(cfg.run)):
        return _check_sweep(overrides)
    if cfg.baseline is not None:
        raise UserError(f"baseline={cfg.baseline}: goes with run=<sweep folder> or run=[<run>,<run>]")
    checkpoint_path(cfg)
    if cfg["class"] is not None and not cfg.generate:
        raise UserError(f"class={cfg['class']}: goes with generate=<number of images>")
    if cfg.seed is not None and not cfg.generate and cfg.samples != "sample":
        raise UserError(f"seed={cfg.seed}: goes with generate=<number of images> or samples=sample")
    if cfg.code_steps and not is_installed("constriction"):
        raise UserError("code_steps: constriction is not installed; pip install -e '.[codec]', or uv run --extra codec")
    if cfg.run:
        configuration(cfg, RunFolder(cfg.run).full_config(), overrides)


def _check_sweep(overrides: list[str]) -> None:
    """Runs are compared by their stored metrics.

    Raises:
        UserError: If an override would need a new test.
    """
    keys = [key_of(override) for override in overrides]
    for key in keys:
        if key not in ("run", "baseline") and not key.startswith("hydra."):
            raise UserError(
                f"{key}: not with several runs, which are compared as they were tested; evaluate one of them"
            )


def target_folder(folder: RunFolder, checkpoint: Path, data: str, cfg: DictConfig, overrides: list[str]) -> Path:
    """Where the results go: a folder for each data set and its settings, checkpoint, kind of code, seed and limit."""
    own = checkpoint.parent == folder.checkpoints or checkpoint.parent == folder.path
    parts = [data, checkpoint.stem if own else f"{checkpoint.parent.parent.name}-{checkpoint.stem}"]
    if settings := sorted(o for o in overrides if o.startswith("data.") or "@data." in key_of(o)):
        parts.append(hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:6])
    parts += ["sample"] if cfg.samples == "sample" else []
    parts += [] if cfg.seed is None else [f"seed{cfg.seed}"]
    if "limit_batches" in map(key_of, overrides):
        parts.append(f"{'all' if cfg.limit_batches is None else cfg.limit_batches}-batches")
    return folder.path / "evaluation" / "-".join(parts)


def comparison_folder(folders: list[Path]) -> Path:
    """Where the comparison of chosen runs goes: the same runs, the same folder."""
    names = sorted(str(folder.resolve()) for folder in folders)
    return OUTPUTS / "comparisons" / hashlib.sha256(json.dumps(names).encode()).hexdigest()[:8]


def run(cfg: DictConfig) -> dict[str, Any] | None:
    """Tests, prints the table and writes `<run>/evaluation/<data>-<checkpoint>/`; of a sweep compares the runs."""
    if isinstance(cfg.run, ListConfig):
        folders = list(map(Path, cfg.run))
        compare(comparison_folder(folders), cfg.baseline, folders)
        return None
    if cfg.run and is_sweep(Path(cfg.run)):
        compare(Path(cfg.run), cfg.baseline)
        return None
    path, overrides = checkpoint_path(cfg), list(HydraConfig.get().overrides.task)
    keep_freed_blocks()
    from saaae.runs.checkpoints import config_in

    folder = RunFolder(cfg.run or (path.parent.parent if path.parent.name == "checkpoints" else path.parent))
    stored = folder.full_config() if cfg.run else config_in(path)
    with job_processes():
        return evaluate(Run(configuration(cfg, stored, overrides), folder, overrides), path, cfg, stored)


def evaluate(run: Run, path: Path, request: DictConfig, stored: DictConfig) -> dict[str, Any]:
    """Tests a checkpoint and writes the results and the requested files.

    Args:
        run: The evaluation: the run's configuration with the changes of evaluate.py, its folder, the overrides.
        path: The checkpoint.
        request: The configuration of evaluate.py.
        stored: The configuration that the run was trained with.

    Returns:
        The content of metrics.json.
    """
    from saaae.cli.exports import earlier_codes, export_files
    from saaae.data.files import digest_of
    from saaae.evaluation.table import table, title
    from saaae.evaluation.test import extra_evaluations, is_whole, run_test, tested_images
    from saaae.metrics.catalog import definitions
    from saaae.runs.checkpoints import read_checkpoint
    from saaae.runs.provenance import run_record
    from saaae.training.build import lightning_module
    from saaae.training.devices import make_trainer
    from saaae.training.process import configure_process

    cfg, limit = run.cfg, run.cfg.trainer.limit_test_batches
    read_checkpoint(path)  # an unusable one is reported before anything else is printed
    configure_process(cfg)
    model, data = model_and_data(request, cfg, stored, run.folder)
    module = lightning_module(model, data, cfg, latents=request.samples)
    trainer = make_trainer(
        cfg, run.folder, whole=True, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, limit_test_batches=limit,
    )  # fmt: skip
    tested = tested_images(data, limit, trainer.world_size)
    if rank() == 0:
        more = "" if is_whole(limit) else f" (limit of {limit} batches; limit_batches=null tests all)"
        print(f"testing      {tested} of {data.num_images('test')} test images{more}", flush=True)
    results = {"test": run_test(trainer, module, data, path), "run": run_record(cfg, data)}
    if rank() > 0:
        return results
    results["run"] |= {"checkpoint": str(path), "checkpoint_digest": digest_of(path), "limit_test_batches": limit}
    results["run"] |= {"tested_images": tested, "reconstructions": f"z = {request.samples}"}
    data_name = HydraConfig.get().runtime.choices.get("data") or "own"
    target = RunFolder(target_folder(run.folder, path, data_name, request, run.overrides))
    results |= extra_evaluations(module, data, results["test"], is_whole(limit))
    # Before anything is written: a full disk must not cost the numbers.
    print(table(title(path, data_name if request.get("data") else None, stored.ema), results))
    results |= {"definitions": definitions(results["test"]), **earlier_codes(target, results)}
    write_json(target.metrics, results)
    export_files(module, data, target, cfg, request, f"{path}: {data_name}", results)
    print(f"written to   {target.path}")
    return results


def model_and_data(
    cfg: DictConfig, full: DictConfig, stored: DictConfig, folder: RunFolder
) -> tuple["ImageAutoencoder", "ImageDataModule"]:
    """Model and data of an evaluation, with a warning if the model may have been trained on what tests it.

    All images of a folder test, unless its files are those of the run in another place.
    """
    from saaae.evaluation.exports import check_exports
    from saaae.training.build import build

    is_other, splits = is_other_data(cfg, full, stored), read_json_or_empty(folder.splits)
    model, data = build(full, test_all=is_other)
    if is_other and data.manifest()["sources"] == splits.get("sources"):
        model, data = build(full)
    check_exports(model, cfg, data.class_names)
    data.sample_seed = cfg.seed if cfg.samples == "sample" else None
    manifest, lines = data.manifest(), list[str]()
    if cfg.get("data") is None and (differing := folder.other_data({"hash": data.split_hash(), **manifest})):
        lines = [f"these are not the data of the run ({differing}): it may have been trained on what tests it"]
    elif splits.get("hash") != data.split_hash():  # training has not printed these lines
        lines = [*manifest.get("warnings", []), *_seen_in_training(splits, manifest)]
        for reason, count in manifest["left_out"].items() if rank() == 0 else ():
            print(f"left out     {count} {reason}")
    for line in lines if rank() == 0 else ():
        print(f"warning: {line}")
    return model, data


def _seen_in_training(splits: dict[str, Any], manifest: "Manifest") -> list[str]:
    """A line if tested files have the content of files that trained or validated, given splits.json of the run."""
    names = [name for split in ("train", "val") for name in splits.get("splits", {}).get(split, {})]
    seen = {splits.get("sources", {}).get(name) for name in names} - {None}
    found = [name for name in manifest["splits"]["test"] if manifest["sources"].get(name) in seen]
    if not found:
        return []
    return [f"the run was trained or validated on {len(found)} of the tested files, such as {found[0]}"]


EVALUATE = Command("evaluate", Evaluate, check, run, checked_later=frozenset({"data", "accelerator"}))
