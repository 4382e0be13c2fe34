"""How to score fabric, chosen without real defects, as a Markdown table: python benchmarks/fabric_scoring.py run [...]

Each of the held-out sound tiles (the validation split of each run of `experiment=fabric`) gets one weak synthetic
defect of each of six kinds, one at a time: a third of the amplitudes of training, about half of its sizes. Maps are
smoothed and standardised by position as in the tests, but from every third training tile; tiles with a defect are to
score higher than the same tiles without, and pixels that were visibly changed higher than all others. Rows are
smoothing (FINE_SIGMA), `model.residual` and `model.flips`; numbers are means over the kinds of defects.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

import saaae
from saaae.data.defects import Blob, LocalBlur, Patch, Thread, Yarn
from saaae.evaluation.detection import columns_in_strip
from saaae.evaluation.scoring import ByPosition
from saaae.metrics.pixel_detection import PixelDetection, smooth
from saaae.metrics.ranking import auroc, counts_of
from saaae.rng import IndexedRandom
from saaae.types import Batch

WEAK = {
    "blob": Blob(amplitude=[0.25, 1.0], size=[1.5, 6.0]),
    "thread": Thread(amplitude=[0.25, 1.0], length=[10.0, 60.0], width=[0.7, 2.0], bend=0.3),
    "displaced": Patch(size=[3.0, 12.0], shift=[3.0, 48.0], turn=[0.0, 0.0], zoom=1.0),
    "foreign": Patch(size=[3.0, 12.0], shift=[3.0, 48.0], turn=[0.0, 180.0], zoom=2.0),
    "yarn": Yarn(amplitude=[0.25, 1.0], width=[1.0, 2.0], length=[16.0, 128.0]),
    "blur": LocalBlur(size=[4.0, 12.0], window=5),
}

SIGMAS = 1.0, 2.0, 3.0, 4.0
RESIDUALS = 0.0, 1.0, 4.0, 16.0


def tiles_of(data, split, every=1):
    """Tiles of a split, their fabrics, and the columns at which they begin."""
    indices = torch.arange(0, data.num_images(split), every)
    batch = data.batch(split, indices, without_defects=True)
    return batch.target, batch.fabric, columns_in_strip(data.places(split))[indices]


def surprises(network, x):
    """The logit and the change (N, 2, H, W) that a network makes of images."""
    found = []
    for part in x.split(16):
        indices = torch.arange(len(part))
        found.append(torch.cat(network.surprise(Batch(part, part, indices, IndexedRandom(0, indices)))[1:], 1))
    return torch.cat(found)


@torch.inference_mode()
def compare(model):
    """Tile AUROC and pixel AP, means over the kinds of defects, by (sigma, residual, flips)."""
    network, data, found = model.network, model.data(), {}
    train, fabrics, left = tiles_of(data, "train", 3)
    sound, fabric, start = tiles_of(data, "val")
    rng = IndexedRandom(0, torch.arange(len(sound)))
    defective = {name: kind(sound, rng) for name, kind in WEAK.items()}
    changed = {name: network.changed(Batch(x, sound, fabric, rng)) for name, x in defective.items()}
    for network.flips in (False, True):
        maps = {name: surprises(network, x) for name, x in {"train": train, "sound": sound, **defective}.items()}
        for sigma in SIGMAS:
            smoothed = {name: smooth(x.flatten(0, 1)[:, None], sigma).view(x.shape) for name, x in maps.items()}
            for residual in RESIDUALS:
                score = {name: x[:, :1] + residual * x[:, 1:] for name, x in smoothed.items()}
                scoring = ByPosition(data.image_size // 2, 0.0)
                scoring.learn(score["train"], fabrics, left)
                found[sigma, residual, network.flips] = numbers(score, scoring, changed, fabric, start)
    return found


def numbers(score, scoring, changed, fabric, start):
    """Tile AUROC of each kind of defect against sound tiles, and pixel AP among tiles with defects."""
    tiles = {name: scoring.tiles(score[name], fabric, start) for name in ("sound", *changed)}
    found = []
    for name, mask in changed.items():
        visible = mask.flatten(1).any(1).numpy()
        scores = [*tiles["sound"], *tiles[name][visible]]
        labels = [0] * len(tiles["sound"]) + [1] * int(visible.sum())
        pixels = PixelDetection(sync_on_compute=False)
        pixels.update(scoring.standardised(score[name], fabric, start).flatten(0, 2), mask.flatten(0, 2).byte())
        found.append((float(auroc(counts_of(scores, labels))), pixels.compute()["pixel_ap"]))
    return found


def main(runs):
    """Prints the table."""
    torch.set_num_threads(1)
    print("| run | sigma | residual | flips | tile AUROC | pixel AP |\n|---|---|---|---|---|---|")
    for run in runs:
        for (sigma, residual, flips), found in compare(saaae.load(run)).items():
            areas, precisions = (f"{sum(numbers) / len(found):.3f}" for numbers in zip(*found, strict=True))
            print(f"| {Path(run).name} | {sigma} | {residual} | {flips} | {areas} | {precisions} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
