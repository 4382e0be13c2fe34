"""Speed, memory and contents of the data modules alone: python benchmarks/data.py [rounds] [--counts]

Speed: images per second of one training epoch of each data module (bytes to float batches, as a model gets them)
relative to a bare loop that indexes the same tensor in shuffled order and converts it; both alternate in one process,
without and with corruption=gaussian. Memory: growth of the resident set since the imports relative to the bytes of the
tiles, after each of five epochs over all splits. The real sets are read from $SAAAE_DATA_DIR (or ./data); missing sets
are left out. `--counts` prints the contents of each set instead.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from saaae.config.folder import config_folder
from saaae.config.resolvers import register_resolvers
from saaae.errors import UserError

SETS = {
    "mnist": ["data=mnist"],
    "aitex": ["data=aitex"],
    "sar": ["data=sar"],
    "sar-256": ["data=sar", "data.image_size=256"],
    "sar-pairs": [
        "data=sar", "data.root=${data_dir}/sar/despeckling_pairs/noisy", "data.target=clean", "data.image_size=64",
        "data.reference_root=${data_dir}/sar/despeckling_pairs/denoised", "data.scene_pattern=null",
    ],
    "sentinel1": [
        "data=sar", "data.root=${data_dir}/sar/sentinel1", "data.scale=intensity", "data.full_scale=0.5",
        "data.split_by=region", "data.image_size=64",
    ],
    "bsd400+bsd68": ["data=folder", "data.root=${data_dir}/clean/bsd400", "data.test_root=${data_dir}/clean/bsd68"],
    "speckle": ["data=speckle"],
}  # fmt: skip


def make(name, cache_dir, *more):
    """Data module of a set, before loading."""
    register_resolvers()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        cfg = compose("train", [*SETS[name], f"cache_dir={cache_dir}", *more])
    return instantiate(cfg.data, _convert_="all")


class Loop:
    """The attributes of a trainer that a data module uses."""

    training, testing, global_rank, world_size = True, False, 0, 1


def epoch_of(data, split="train"):
    """Images per second of one epoch through the data module."""
    data.trainer = Loop()
    loader = data.train_dataloader() if split == "train" else data._loader(split, shuffle=False)
    start, total = time.perf_counter(), 0.0
    for raw in loader:
        batch = data.on_after_batch_transfer(raw, 0)
        total += batch.input[0, 0, 0, 0]
    return data.num_images(split) / (time.perf_counter() - start)


def bare(data):
    """Images per second of a bare loop that indexes and converts the same tensor in shuffled order."""
    images = data.splits["train"]
    pixels = images.pixels
    start, total = time.perf_counter(), 0.0
    order = torch.randperm(images.size) if images.rows is None else images.rows[torch.randperm(images.size)]
    for rows in order.split(data.batch_size):
        x = pixels[rows].float().div_(255.0) if pixels.dtype == torch.uint8 else pixels[rows]
        total += x[0, 0, 0, 0]
    return images.size / (time.perf_counter() - start)


def loaded(name, cache_dir, *more):
    """A loaded data module and the loading time in seconds; None if the set is missing."""
    try:
        data = make(name, cache_dir, *more)
        start = time.perf_counter()
        data.setup()
        return data, time.perf_counter() - start
    except UserError as error:
        print(f"{name}: {error}")
        return None


def speed(rounds):
    """Prints ratios to the bare loop, and loading times."""
    torch.set_num_threads(1)
    print(f"{'set':<14}{'bare img/s':>12}{'ratio':>8}{'  range':<16}{'noise ratio':>12}{'first s':>9}{'again s':>9}")
    for name in SETS:
        with tempfile.TemporaryDirectory() as cache_dir:
            first = loaded(name, cache_dir)
            if first is None:
                continue
            data, again = loaded(name, cache_dir)
            noisy, _ = loaded(name, cache_dir, "corruption=gaussian")
            pairs = []
            for _ in range(rounds + 1):
                pairs.append((repeated(bare, data), repeated(epoch_of, data), repeated(epoch_of, noisy)))
            pairs = pairs[1:]  # the first round is a warm-up: it maps the pages
            ratios = sorted(ours / theirs for theirs, ours, _ in pairs)
            corrupted = sorted(ours / theirs for theirs, _, ours in pairs)
            middle = rounds // 2
            print(
                f"{name:<14}{sorted(p[0] for p in pairs)[middle]:>12.0f}{ratios[middle]:>8.2f}"
                f"  {ratios[0]:.2f} to {ratios[-1]:.2f}  {corrupted[middle]:>12.2f}{first[1]:>9.2f}{again:>9.2f}"
            )


def repeated(measure, data, seconds=0.4):
    """Mean over as many epochs as fit into a short time, because one epoch of a small set is too short to time."""
    start, rates = time.perf_counter(), []
    while time.perf_counter() - start < seconds:
        rates.append(measure(data))
    return len(rates) / sum(1 / rate for rate in rates)


def resident_mb():
    """Resident set of this process in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def memory(name):
    """Prints the growth of the resident set of this process relative to the bytes of the tiles."""
    with tempfile.TemporaryDirectory() as cache_dir:
        data = make(name, cache_dir)
        start = resident_mb()
        data.setup()
        grown = []
        for _ in range(5):
            for split in data.splits:
                epoch_of(data, split)
            grown.append(resident_mb() - start)
        tiles = sum(i.size * i.pixels[0].numel() * i.pixels.element_size() for i in data.splits.values()) / 2**20
        steps = ", ".join(f"{mb:.0f}" for mb in grown)
        print(f"{name}: tiles {tiles:.0f} MB; resident memory grew by {steps} MB after epochs 1 to 5")
        print(f"{name}: growth / tiles {grown[-1] / tiles:.2f}")


def counts():
    """Prints files and tiles of each set and split, defective tiles, and what was left out with the reason."""
    print("| set | split | files | tiles | defective, unknown | left out |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as cache_dir:
        for name in SETS:
            found = loaded(name, cache_dir)
            if found is None:
                continue
            data, manifest = found[0], found[0].manifest()
            left_out = ", ".join(f"{count} {reason}" for reason, count in manifest["left_out"].items())
            for split, images in data.splits.items():
                labels = "-"
                if name == "aitex":
                    label = images.label[images.rows]
                    labels = f"{int((label == 1).sum())}, {int((label == -1).sum())}"
                files = len(manifest["splits"][split])
                print(f"| {name} | {split} | {files} | {images.size} | {labels} | {left_out} |")
                left_out = ""


if __name__ == "__main__":
    words = sys.argv[1:]
    if "--counts" in words:
        counts()
    elif "--memory" in words:
        memory(words[-1])
    else:
        speed(next((int(word) for word in words if word.isdigit()), 5))
        for data_set in ("mnist", "aitex"):
            subprocess.run([sys.executable, __file__, "--memory", data_set], check=True)
