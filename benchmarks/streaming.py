"""Speed of data=stream and of data=sar on the same tiles: python benchmarks/streaming.py [rounds] [--train]

The scenes in sar/mstar/scenes of $SAAAE_DATA_DIR (or ./data) are copied 16 times, written as shards and read back, on
one CPU thread. Each round measures, in one process, one epoch of the data module in memory, of the streaming module
from a folder, and of the streaming module through a download cache that is smaller than the data set (`file://`, a
folder treated like an object store: a download costs disk access, but no network). Prints median rates, and medians and
ranges of the ratios within a round. `--train` does the same for training runs of the default model.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))


import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from saaae.config.folder import config_folder
from saaae.config.resolvers import register_resolvers
from saaae.data.shards import write_shards

COPIES, SHARD_IMAGES, CACHE_GB = 16, 256, 0.11
SHARED = ["data.batch_size=16"]


def written(folder):
    """Copies of the scenes, and their shards: 8256 training tiles of 128 pixels."""
    source = Path(os.environ.get("SAAAE_DATA_DIR", "data")) / "sar/mstar/scenes"
    scenes, shards = folder / "scenes", folder / "shards"
    scenes.mkdir()
    for path in sorted(source.iterdir()):
        for copy in range(COPIES):
            shutil.copy(path, scenes / f"{path.name.partition('_')[0]}{copy:02d}_{path.name.partition('_')[2]}")
    start = time.perf_counter()
    index = write_shards(made(*in_memory(scenes)), shards, SHARD_IMAGES)
    seconds = time.perf_counter() - start
    total = [shard for split in index.shards.values() for shard in split]
    images, size = sum(shard.images for shard in total), sum(shard.size for shard in total)
    print(f"written      {images} tiles, {size / 1e6:.0f} MB in {len(total)} shards, {images / seconds:.0f} tiles/s")
    return scenes, shards


def in_memory(scenes):
    """Overrides for reading the scenes into memory; copies of a scene may be in several splits."""
    return ["data=sar", f"data.root={scenes}", "data.allow_duplicates=true"]


def made(*words):
    """Data module built from command-line overrides."""
    register_resolvers()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        cfg = compose("train", [*words, *SHARED])
    return instantiate(cfg.data, _convert_="all")


class Loop:
    """The attributes of a trainer that a data module uses."""

    training, testing, global_rank, world_size = True, False, 0, 1


def epoch(data):
    """Images per second of one training epoch, from bytes to float batches."""
    data.trainer = Loop()
    start, total = time.perf_counter(), 0.0
    for raw in data.train_dataloader():
        total += float(data.on_after_batch_transfer(raw, 0).input[0, 0, 0, 0])
    return data.num_images("train") / (time.perf_counter() - start)


def training(words, name, folder):
    """Images per second of a training run, as reported in its metrics.json."""
    root = Path(__file__).parents[1]
    words = [
        *words, *SHARED, "accelerator=cpu", "threads=1", "trainer.max_steps=20", "logger=none", "callbacks=none",
        "trainer.limit_val_batches=1", "trainer.limit_test_batches=1", "pictures.count=1", f"name={name}",
    ]  # fmt: skip
    subprocess.run([sys.executable, root / "train.py", *words], cwd=folder, check=True, capture_output=True)
    return json.loads((folder / "outputs" / name / "metrics.json").read_text())["train"]["images_per_second"]


def table(rounds):
    """Prints one row for each way of reading; the first row is memory."""
    print(f"{'':<34}{'images/s':>10}{'/ memory':>11}  range")
    for name in rounds[0]:
        ratios = sorted(each[name] / each["memory"] for each in rounds)
        rate = median(each[name] for each in rounds)
        print(f"{name:<34}{rate:>10.0f}{median(ratios):>11.2f}  {ratios[0]:.2f} to {ratios[-1]:.2f}")


def main(count, train):
    """Writes the shards once and reads them `count` times; if `train` is set, also measures training."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:  # a download may still be running
        folder = Path(name)
        scenes, shards = written(folder)
        remote = ["data=stream", f"data.root=file://{shards}", f"data.cache_gb={CACHE_GB}"]
        ways = {
            "memory": in_memory(scenes),
            "stream, a folder": ["data=stream", f"data.root={shards}"],
            "stream, a cache below the data set": remote,
        }
        ways = {way: [*words, f"cache_dir={folder / 'cache'}"] for way, words in ways.items()}
        modules = {way: made(*words) for way, words in ways.items()}
        for data in modules.values():
            data.setup()
        measured = []
        for _ in range(count + 1):
            measured.append({way: epoch(data) for way, data in modules.items()})
        table(measured[1:])  # the first round is a warm-up: it maps the pages
        if train:
            pairs = [
                {way: training(words, f"run{i}-{number}", folder) for number, (way, words) in enumerate(ways.items())}
                for i in range(count)
            ]
            print("\ntraining, model=saaae")
            table(pairs)


if __name__ == "__main__":
    rounds_asked = next((int(word) for word in sys.argv[1:] if word.isdigit()), 7)
    main(rounds_asked, "--train" in sys.argv)
