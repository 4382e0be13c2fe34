"""Kills runs at random moments, resumes them, and compares the final state: python benchmarks/crash.py [kills] [seed]

Uses real processes and SIGKILL. Each scenario has an uninterrupted run and one that is killed repeatedly until it
finishes; both must end with bit-identical weights, optimizer, schedules, random state, curves and test metrics.
After every kill all existing checkpoints must be completely readable. Scenarios: models and data sets, loader
workers, two processes, a checkpoint after every step, temporary files on another filesystem, a kill while a cache is
written, and (as root) a small disk that fills up. The digits are read from $SAAAE_DATA_DIR.
"""

import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from PIL import Image

from saaae.errors import UserError
from saaae.runs.checkpoints import read_intact
from tests.comparison import differences
from tests.zygote import Zygote

SMALL = [
    "data.num_train=96", "data.num_val=8", "data.num_test=8", "data.image_size=32", "data.batch_size=4", "threads=1",
    "accelerator=cpu", "trainer.max_epochs=3", "trainer.log_every_n_steps=1", "pictures.count=2",
    "checkpoint.every_n_steps=7",
]  # fmt: skip
NARROW = "model.encoder.widths=[16,16]"
DIGITS = ["data=mnist", "data.batch_size=128", "threads=1", "accelerator=cpu", "trainer.max_epochs=2",
          "trainer.limit_train_batches=40", "trainer.limit_val_batches=4", "trainer.limit_test_batches=4",
          "trainer.log_every_n_steps=1", "checkpoint.every_n_steps=7"]  # fmt: skip
SCENARIOS = {
    "vae": ["model=vae", NARROW, *SMALL],
    "saaae, speckle in, 2 workers": ["model=saaae", NARROW, *SMALL, "corruption=mixed", "data.num_workers=2"],
    "despeckler, looks drawn": ["model=despeckler", NARROW, "model.encoder.blocks=[1,1]", *SMALL,
                                "data.target=clean", "data.looks=[1,4]"],
    "a checkpoint every step": ["model=vae", NARROW, *SMALL, "checkpoint.every_n_steps=1", "beta=target_kl"],
    "temporary files elsewhere": ["model=vae", NARROW, *SMALL, "checkpoint.every_n_steps=1", "posterior=low_rank"],
    "cvae on digits": ["model=cvae_embedding", *DIGITS, "model.label_drop=0.2"],
    "denoising on digits, 1 worker": ["model=denoising_vae", *DIGITS, "corruption=blur", "data.num_workers=1"],
    "a cache that is being written": ["model=vae", NARROW, *SMALL[3:], "data=folder"],
    "two processes": ["model=vae", NARROW, *[w for w in SMALL if w != "accelerator=cpu"], "accelerator=ddp_cpu"],
    "a disk that fills up": ["model=vae", NARROW, *SMALL, "checkpoint.every_n_steps=3"],
}  # fmt: skip


class Tally:
    """Counts of kills, finished runs and errors."""

    def __init__(self):
        self.kills = self.unreadable = self.finished = self.inexact = self.log_errors = 0

    def check(self, run):
        """Counts checkpoints that cannot be read."""
        for path in (run / "checkpoints").glob("*.ckpt"):
            try:
                read_intact(path)
            except UserError as error:
                self.unreadable += 1
                print(f"  {error}")

    def compare(self, whole, run):
        """Counts a finished run, and whether its final state differs."""
        found = differences(whole, run)
        self.finished += 1
        in_logs = [line for line in found if line.startswith(("metrics.csv", "TensorBoard"))]
        self.inexact += len(found) > len(in_logs)
        self.log_errors += bool(in_logs)
        if found:
            print(f"  {run}: {', '.join(found)} differ")


def write_images(folder):
    """A folder of noise images, large enough that decoding them takes a while."""
    folder.mkdir()
    for i in range(160):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (200, 200), np.uint8)).save(folder / f"{i}.png")


@contextmanager
def small_disk(folder):
    """A filesystem of 12 MB, or None if this process may not mount one."""
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", folder], check=False, capture_output=True)
    try:
        yield folder if made.returncode == 0 else None
    finally:
        if made.returncode == 0:
            subprocess.run(["umount", folder], check=False)


def until_finished(start, run, tally, kills, longest):
    """Starts a run repeatedly and kills it at random moments; the last start is not killed."""
    for _ in range(kills):
        child = start()
        time.sleep(random.uniform(0.2, longest))
        os.kill(child.pid, signal.SIGKILL)
        if child.wait() != -signal.SIGKILL:
            if not (run / "metrics.json").is_file():
                print(child.printed)
            break
        tally.kills += 1
        tally.check(run)
    if not (run / "metrics.json").is_file():
        child = start()
        if child.wait():
            print(child.printed)


def fill_up(start, run, disk, tally, times):
    """Fills the disk while the run writes, frees it after the run has stopped, and starts the run again."""
    filler = disk / "filler"
    for _ in range(times):
        child = start()
        time.sleep(random.uniform(1.0, 3.0))
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        status = child.wait()
        tally.kills += status != 0
        if status and (status != 1 or "error: " not in child.printed or "Traceback" in child.printed):
            print(child.printed)
        filler.unlink(missing_ok=True)
        tally.check(run)
    until_finished(start, run, tally, 0, 0.0)


def main(kills, seed):
    """Runs the scenarios and prints one table row for each."""
    random.seed(seed)
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # hides messages about purged events, which are expected
    total = Tally()
    base = Path(tempfile.mkdtemp(prefix="crash-"))
    write_images(base / "images")
    data_dir = os.environ.get("SAAAE_DATA_DIR")
    errors = "unreadable checkpoints | runs with a different final state | lost or duplicate log points"
    print(f"| scenario | kills | runs finished | {errors} |")
    print("|---|---|---|---|---|---|", flush=True)
    with Zygote() as zygote, small_disk(base / "disk") as disk:
        for name, words in SCENARIOS.items():
            if ("digits" in name and not data_dir) or (name == "a disk that fills up" and disk is None):
                print(f"| {name} | not run here | | | | |")
                continue
            tally = Tally()
            scenario(zygote, base, name, words, disk, tally, kills)
            for key, value in vars(tally).items():
                setattr(total, key, getattr(total, key) + value)
            print_row(name, tally)
    print_row("all", total)
    shutil.rmtree(base)


def scenario(zygote, base, name, words, disk, tally, kills):
    """Repeats one scenario until it has its share of the kills."""
    home = Path(tempfile.mkdtemp(dir=disk if "disk" in name else base))
    environment = {"TMPDIR": "/dev/shm"} if "elsewhere" in name else {}
    cache = home / "cache"
    words = [*words, f"cache_dir={cache}"]
    if "data=folder" in words:
        words.append(f"data.root={base / 'images'}")
    if zygote.start(home, "name=whole", *words, environment=environment).wait():
        print(f"  {name}: the uninterrupted run failed")
        return
    number, share = 0, max(1, kills // len(SCENARIOS))
    longest = 14.0 if "processes" in name else 4.0
    while tally.kills < share:
        number += 1
        run = home / "outputs" / f"broken-{number}"
        if "cache" in name:
            shutil.rmtree(cache, ignore_errors=True)

        def start(run=run):
            return zygote.start(home, f"name={run.name}", *words, environment=environment)

        if "disk" in name:
            fill_up(start, run, disk, tally, 3)
        else:
            until_finished(start, run, tally, random.randint(2, 6), longest)
        if (run / "metrics.json").is_file():
            tally.compare(home / "outputs" / "whole", run)
        else:
            print(f"  {run}: did not finish")
        shutil.rmtree(run, ignore_errors=True)
        if number > 3 * share:
            break


def print_row(name, tally):
    """Prints one row of the table."""
    cells = (name, tally.kills, tally.finished, tally.unreadable, tally.inexact, tally.log_errors)
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main(*(int(argument) for argument in (sys.argv[1:] + ["120", "0"][len(sys.argv) - 1 :])))
