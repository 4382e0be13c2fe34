"""Defects in AITEX fabric, as Markdown tables: python benchmarks/fabric.py [run folders]

Two principal component analyses, baselines for a fabric autoencoder, on the splits of `experiment=aitex_vae`, with the
same protocol and metrics as trained runs (`saaae.evaluation.detection.detect`), whose numbers are read from their
metrics.json. Tile PCA-32 is a linear autoencoder of whole 256-pixel tiles with 32 latents; patch PCA k=8 is a linear
autoencoder of 16x16 patches with 8 latents each. Both are fitted on the training tiles; the map is the squared
residual. Tiles are 128 pixels apart. Unmarked tiles of defective strips are left out, except in `AUROC of all tiles`,
where they count as normal. Brackets are 95 % intervals over resampled strips; the threshold of the best F1 is chosen
with test labels. The strips are read from $SAAAE_DATA_DIR/aitex (or ./data/aitex).
"""

import json
import resource
import sys
import time
from functools import partial
from math import nan
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch.nn.functional import fold, unfold

from saaae.config.folder import config_folder
from saaae.config.resolvers import register_resolvers
from saaae.evaluation.detection import detect
from saaae.metrics.pixel_detection import squared_residual

PATCH = 16


def open_data():
    """The data of `experiment=aitex_vae`."""
    register_resolvers()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        data = instantiate(compose("train", ["experiment=aitex_vae"]).data, _convert_="all")
    data.setup()
    return data


def patches(x):
    """Patches (N, PATCH**2) of images (B, 1, H, W), without overlap."""
    return unfold(x, PATCH, stride=PATCH).transpose(1, 2).reshape(-1, PATCH**2)


def image_of(rows, like):
    """Images (B, 1, H, W), with the shape of `like`, reassembled from patches."""
    return fold(rows.view(len(like), -1, PATCH**2).transpose(1, 2), like.shape[-2:], PATCH, stride=PATCH)


def principal_axes(x, count):
    """Mean (D,) and the first principal axes (count, D) of rows (N, D)."""
    mean = x.mean(0)
    x = x - mean
    if len(x) > x.shape[1]:
        return mean, torch.linalg.eigh(x.T @ x)[1][:, -count:].T
    axes = torch.linalg.eigh(x @ x.T)[1][:, -count:].T @ x
    return mean, axes / axes.norm(dim=1, keepdim=True)


def restored(pca, rows):
    """Rows (N, D) projected onto the principal axes."""
    mean, axes = pca
    return (rows - mean) @ axes.T @ axes + mean


def tile_map(pca, batch):
    """Squared residual of whole tiles."""
    return squared_residual(restored(pca, batch.input.flatten(1)).view_as(batch.input), batch.target)


def patch_map(pca, batch):
    """Squared residual of patches."""
    return squared_residual(image_of(restored(pca, patches(batch.input)), batch.input), batch.target)


def interval(found, name):
    """A number with its interval."""
    return f"{found[name]:.3f} [{found[f'{name}_low']:.3f}, {found[f'{name}_high']:.3f}]"


def row(found, seconds):
    """The cells of the first table."""
    tile, at, pixel = found["tile"], found["threshold"], found["pixel"]
    return {
        "tile AUROC": interval(tile, "auroc"),
        "tile AP": interval(tile, "average_precision"),
        "tile best F1": f"{tile['best_f1']:.3f}",
        "AUROC of all tiles": interval(found["tile_all"], "auroc"),
        "image AUROC": interval(found["image"], "auroc"),
        "pixel AUROC": f"{pixel['pixel_auroc']:.3f}",
        "pixel AP": f"{pixel['pixel_ap']:.3f}",
        "pixel best F1": f"{pixel['pixel_f1']:.3f}",
        "AUPRO .3 / .05": f"{pixel['aupro_30']:.3f} / {pixel['aupro_05']:.3f}",
        "recall / false alarms at the threshold": f"{at['recall']:.3f} / {at['false_alarm_rate']:.4f}",
        "s": f"{seconds:.0f}",
    }


def short_row(found):
    """The cells of the table of scores by position."""
    tile, pixel = found["tile"], found["pixel"]
    return {
        "tile AUROC": interval(tile, "auroc"),
        "tile AP": interval(tile, "average_precision"),
        "image AUROC": interval(found["image"], "auroc"),
        "pixel AP": f"{pixel['pixel_ap']:.3f}",
        "AUPRO .3 / .05": f"{pixel['aupro_30']:.3f} / {pixel['aupro_05']:.3f}",
    }


def print_table(head, rows):
    """A Markdown table."""
    print(f"| {' | '.join(head)} |\n{'|---' * len(head)}|")
    for cells in rows:
        print(f"| {' | '.join(cells)} |")
    print()


def print_parts(results, part, what):
    """AUROC and AP of the tiles by fabric or defect."""
    heads = [f"{name}: {number}" for name in results for number in ("AUROC", "AP")]
    rows = []
    for code, numbers in next(iter(results.values()))[part].items():
        ranks = [found[part][code] for found in results.values()]
        areas = [f"{rank[key]:.3f}" for rank in ranks for key in ("auroc", "average_precision")]
        rows.append([code, str(numbers["defective"]), str(numbers["sound"]), *areas])
    print_table([what, "defective tiles", "normal tiles", *heads], rows)


def stored(run):
    """Detection results of a run, from its metrics.json."""
    found = json.loads((Path(run) / "metrics.json").read_text())["detection"]
    return json.loads(json.dumps(found), object_hook=lambda part: {k: nan if v is None else v for k, v in part.items()})


def main(runs):
    """Prints the tables."""
    torch.set_num_threads(1)
    data = open_data()
    train = data.batch("train", torch.arange(data.num_images("train"))).target
    detectors = {
        "tile PCA-32": partial(tile_map, principal_axes(train.flatten(1), 32)),
        "patch PCA k=8 16x16": partial(patch_map, principal_axes(patches(train), 8)),
    }
    del train
    results, seconds = {}, {}
    for name, maps_of in detectors.items():
        start = time.perf_counter()
        results[name] = detect(maps_of, data)
        seconds[name] = time.perf_counter() - start
    results |= {run: stored(run) for run in runs}
    rows = {name: row(found, seconds.get(name, nan)) for name, found in results.items()}
    print_table(["detector", *rows["tile PCA-32"]], [[name, *cells.values()] for name, cells in rows.items()])
    position = {name: found["by_position"] for name, found in results.items() if "by_position" in found}
    parts = {"all": lambda found: found, "reserved": lambda found: found["reserved"]}
    rows = {f"{name}, {part}": short_row(of(found)) for name, found in position.items() for part, of in parts.items()
            if "tile" in of(found)}  # fmt: skip
    head = ["by position: detector, defects", *next(iter(rows.values()))]
    print_table(head, [[name, *cells.values()] for name, cells in rows.items()])
    print_parts(results, "per_fabric", "fabric")
    print_parts(results, "per_defect", "defect")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:.0f} MiB")


if __name__ == "__main__":
    main(sys.argv[1:])
