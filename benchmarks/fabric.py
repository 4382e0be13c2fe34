"""Defects in AITEX fabric, as Markdown tables: python benchmarks/fabric.py [run folders]

Two principal component analyses, baselines for a fabric autoencoder, on the splits of `experiment=aitex_vae`, with the
same protocol and metrics as trained runs (`saaae.evaluation.detection.detect`), whose numbers are read from their
metrics.json. Of a `fabric_unet` also with other `model.flips` and `model.residual`, and Gaussian features of its
encoder: some minutes a run. Tile PCA-32 is a linear autoencoder of whole 256-pixel tiles with 32 latents; patch PCA k=8
is a linear autoencoder of 16x16 patches with 8 latents each. Both are fitted on the training tiles; the map is the
squared residual. Tiles are 128 pixels apart. Unmarked tiles of defective strips are left out, except in `AUROC of all
tiles`, where they count as normal. Brackets are 95 % intervals over resampled strips; of runs that differ in nothing
but their seed rows are means under the name of the first, and brackets the least and the greatest. The threshold of the
best F1 is chosen with test labels. The strips are read from $SAAAE_DATA_DIR/aitex (or ./data/aitex).
"""

import json
import resource
import sys
import time
from functools import partial
from math import nan
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch.nn.functional import fold, interpolate, unfold

import saaae
from saaae.config.folder import config_folder
from saaae.config.resolvers import register_resolvers
from saaae.config.settings import settings_of
from saaae.evaluation.detection import columns_in_strip, detect
from saaae.metrics.pixel_detection import squared_residual
from saaae.runs.folder import RunFolder

PATCH = 16
CHOICES = (True, 4.0), (False, 4.0), (False, 0.0)
"""Values of `model.flips` and `model.residual` that are compared."""
SHRINKAGE = 0.01
"""Part of the mean variance that is added to the variances of features."""


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
    """A number with its interval, if it has one."""
    if f"{name}_low" not in found:
        return f"{found[name]:.3f}"
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
        "pixel AP": interval(pixel, "pixel_ap"),
        "AUPRO .3": interval(pixel, "aupro_30"),
        "AUPRO .05": interval(pixel, "aupro_05"),
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
        rows.append([code, str(round(numbers["defective"])), str(round(numbers["sound"])), *areas])
    print_table([what, "defective tiles", "normal tiles", *heads], rows)


def stored(run):
    """Detection results of a run, from its metrics.json."""
    found = json.loads((Path(run) / "metrics.json").read_text())["detection"]
    return json.loads(json.dumps(found), object_hook=lambda part: {k: nan if v is None else v for k, v in part.items()})


def of_runs(found):
    """Results of several runs as one: means, and as `_low` and `_high` the least and greatest, not an interval.

    What not all of them have is left out.
    """
    if len(found) == 1:
        return found[0]
    merged = {}
    for key, first in found[0].items():
        values = [each[key] for each in found if key in each]
        if len(values) < len(found):
            continue
        if isinstance(first, dict):
            merged[key] = of_runs(values)
        elif not key.endswith(("_low", "_high")):
            merged |= {key: sum(values) / len(values), f"{key}_low": min(values), f"{key}_high": max(values)}
    return merged


class Gaussians:
    """Distances of the features of a U-Net's own encoder to those of sound fabric, after PaDiM (Defard et al. 2021).

    At every pixel of the level at 1/4 of the side, the features of that level and of the next coarser one are compared
    with those of training tiles of the same fabric in the same columns of the strip, in blocks of half a tile; those of
    other fabrics with those of all training tiles.

    Args:
        network: The U-Net.
        data: The tiles.
    """

    def __init__(self, network, data):
        self.network, self.data, self.width, self.left = network, data, data.image_size // 2, torch.zeros(0)
        self.read, data.batch = data.batch, self.batch  # `detect` does not say where along its strip a tile begins
        sums: dict[tuple[int, ...], list[Any]] = {}
        for chosen in torch.arange(data.num_images("train")).split(data.batch_size):
            features, keys = self.features(data.batch("train", chosen, without_defects=True))
            for key in keys.flatten(0, 1).unique(dim=0):
                x = features[(keys == key).all(-1)].flatten(0, 1)
                parts = sums.setdefault(tuple(key.tolist()), [0, 0, 0])
                parts[:] = [old + new for old, new in zip(parts, (len(x), x.sum(0), x.T @ x), strict=True)]
        self.blocks = {fabric: max(b for f, b in sums if f == fabric) for fabric, _ in sums}
        self.fitted = {key: self.whitened(*parts) for key, parts in sums.items()}
        self.pooled = self.whitened(*map(sum, zip(*sums.values(), strict=True)))

    def batch(self, split, chosen, *rest, **options):
        """A batch, after which `left` says where its tiles begin."""
        self.left = columns_in_strip(self.data.places(split))[chosen]
        return self.read(split, chosen, *rest, **options)

    def features(self, batch):
        """Features (B, W, H, C), and the fabric and block of each column (B, W, 2)."""
        _, fine, coarse, _ = self.network.levels(self.network.prepare(batch))
        x = torch.cat([fine, interpolate(coarse, scale_factor=2)], 1).permute(0, 3, 2, 1)
        pixels = torch.arange(x.shape[1]) * (self.data.image_size // x.shape[1])
        block = (self.left[:, None] + pixels) // self.width
        return x.double(), torch.stack([batch.fabric[:, None].expand_as(block), block], -1)

    @staticmethod
    def whitened(count, total, squares):
        """Mean, and the factor that makes distances of the features to it ones in standard deviations."""
        mean = total / count
        covariance = squares / count - mean[:, None] * mean
        covariance += SHRINKAGE * covariance.diagonal().mean() * torch.eye(len(mean))
        return mean, torch.linalg.inv(torch.linalg.cholesky(covariance)).T

    def __call__(self, batch):
        """Maps (B, 1, H, W) of Mahalanobis distances."""
        features, keys = self.features(batch)
        distance = features.new_zeros(features.shape[:3])
        for fabric, block in keys.flatten(0, 1).unique(dim=0).tolist():
            mean, factor = self.fitted.get((fabric, min(block, self.blocks.get(fabric, 0))), self.pooled)
            mine = (keys == torch.tensor([fabric, block])).all(-1)
            distance[mine] = ((features[mine] - mean) @ factor).norm(dim=-1)
        maps = distance.transpose(1, 2)[:, None].float()
        return interpolate(maps, batch.input.shape[-2:], mode="bilinear")


def settings_but_the_seed(run):
    """What runs that are averaged have in common."""
    return {key: value for key, value in settings_of(RunFolder(Path(run)).full_config()).items() if key != "seed"}


@torch.no_grad()
def of_network(run, name):
    """Results of a run: as it was tested and, where the model marks defects, those of further maps of it; by name."""
    model = saaae.load(run)
    network: Any = model.network
    data: Any = model.data()
    if not network.marks:
        return {name: stored(run)}
    own, found = (network.flips, network.residual), {}
    for choice in dict.fromkeys([own, *CHOICES]):
        network.flips, network.residual = choice
        row = f"{name}, flips {str(choice[0]).lower()}, residual {choice[1]:g}"
        found[row] = stored(run) if choice == own else detect(network.anomaly_map, data)
    return {**found, f"{name}, Gaussian features": detect(Gaussians(network, data), data)}


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
    found, seconds = {}, {}
    for name, maps_of in detectors.items():
        start = time.perf_counter()
        found[name] = [detect(maps_of, data)]
        seconds[name] = time.perf_counter() - start
    settings = {run: settings_but_the_seed(run) for run in runs}
    for run in runs:
        first = next(other for other in runs if settings[other] == settings[run])
        for name, numbers in of_network(run, str(first)).items():
            found.setdefault(name, []).append(numbers)
    results = {f"{name} ({len(of)} runs)" if len(of) > 1 else name: of_runs(of) for name, of in found.items()}
    rows = {name: row(of, seconds.get(name, nan)) for name, of in results.items()}
    print_table(["detector", *rows["tile PCA-32"]], [[name, *cells.values()] for name, cells in rows.items()])
    position = {name: of["by_position"] for name, of in results.items() if "by_position" in of}
    parts = {"all": lambda of: of, "reserved": lambda of: of["reserved"]}
    rows = {f"{name}, {part}": short_row(get(of)) for name, of in position.items() for part, get in parts.items()
            if "tile" in get(of)}  # fmt: skip
    head = ["by position: detector, defects", *next(iter(rows.values()))]
    print_table(head, [[name, *cells.values()] for name, cells in rows.items()])
    print_parts(position, "per_fabric", "fabric, by position")
    print_parts(position, "per_defect", "defect, by position")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:.0f} MiB")


if __name__ == "__main__":
    main(sys.argv[1:])
