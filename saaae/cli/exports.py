"""Files that evaluate.py writes besides metrics.json."""

from typing import Any

from omegaconf import DictConfig

from saaae.atomic import read_json_or_empty, write_json
from saaae.data.datamodule import ImageDataModule
from saaae.evaluation.exports import save_arrays, save_generated, save_traversals
from saaae.evaluation.test import draw, known_kl
from saaae.models.lightning import AutoencoderModule
from saaae.runs.folder import RunFolder


def earlier_codes(found: RunFolder, results: dict[str, Any]) -> dict[str, Any]:
    """The `codes` that an earlier evaluation of the same checkpoint on the same images has left."""
    earlier, keys = read_json_or_empty(found.metrics), ("checkpoint_digest", "split_hash", "tested_images")
    same = all(earlier.get("run", {}).get(key) == results["run"][key] for key in keys)
    return {"codes": earlier["codes"]} if same and earlier.get("codes") else {}


def export_files(
    module: AutoencoderModule,
    data: ImageDataModule,
    found: RunFolder,
    full: DictConfig,
    cfg: DictConfig,
    title: str,
    results: dict[str, Any],
) -> None:
    """Writes pictures and the requested files; adds new `codes` to metrics.json.

    Args:
        module: The tested model.
        data: Its data.
        found: Where the files go.
        full: The configuration of the evaluation.
        cfg: The configuration of evaluate.py.
        title: For the pictures.
        results: The content of metrics.json.
    """
    found.path.mkdir(parents=True, exist_ok=True)
    model, tested = module.model, results["run"]["tested_images"]
    draw(module, data, found, title, full.pictures.count)
    if cfg.save_arrays:
        count, path = min(cfg.save_arrays, tested), found.path / "arrays.npz"
        print(f"arrays       {save_arrays(model, data, count, path, cfg.samples)}")
    if cfg.traversals:
        path = found.path / "traversals.npz"
        print(f"traversals   {save_traversals(model, data, cfg.traversals, known_kl(module), path)}")
    if cfg.generate:
        seed, path = full.seed if cfg.seed is None else cfg.seed, found.path / "generated.png"
        print(f"generated    {save_generated(model, cfg.generate, cfg['class'], seed, path, data.class_names)}")
    if cfg.code_steps:
        from saaae.evaluation.codec import rate_distortion, rate_line

        codes = rate_distortion(model, data, list(cfg.code_steps), found.path, tested)
        print("\n".join(map(rate_line, codes)))
        kept = [code for code in results.get("codes", []) if code["step"] not in cfg.code_steps]
        results["codes"] = sorted([*kept, *codes], key=lambda code: code["step"])
        write_json(found.metrics, results)
