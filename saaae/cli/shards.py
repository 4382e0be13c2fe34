"""Writes the tiles of a data set as shards: python -m saaae.cli.shards data=sar data.root=<folder> to=<new folder>"""

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from saaae.cli.command import Command
from saaae.cli.main import main
from saaae.config.folder import config_folder
from saaae.config.overrides import list_override
from saaae.errors import UserError
from saaae.ranges import NonNegativeInt, PositiveInt

KINDS = ("saaae.data.sar.SARData", "saaae.data.folder.FolderData")


class Shards:
    """Settings at the root of shards.yaml."""

    to: str | None
    shard_images: PositiveInt
    seed: NonNegativeInt
    data_dir: str
    cache_dir: str | None


def check(cfg: DictConfig, overrides: list[str]) -> None:
    """Checks what can be checked before torch is imported.

    Raises:
        UserError: Naming the key.
    """
    if not cfg.to:
        raise UserError("to: missing; expected to=<a new folder>")
    if cfg.data is None or cfg.data._target_ not in KINDS:
        raise UserError("data: expected data=sar or data=folder; the other data sets fit into memory")


def run(cfg: DictConfig) -> None:
    """Writes the shards and prints their numbers of images and sizes."""
    from saaae.data.datamodule import SPLITS
    from saaae.data.shards import write_shards

    data = instantiate(cfg.data, _convert_="all")
    index = write_shards(data, Path(cfg.to).expanduser(), cfg.shard_images)
    for split in SPLITS:
        shards = index.shards[split]
        images, size = sum(shard.images for shard in shards), sum(shard.size for shard in shards)
        print(f"{split:<6}{images:>10} images {len(shards):>6} shards {size / 1e6:>10.1f} MB")
    for reason, count in index.manifest["left_out"].items():
        print(f"left out     {count} {reason}")
    for name, why in index.manifest["skipped"].items():
        print(f"skipped      {name} ({why})")
    print(f"train with   python train.py data=stream data.root={cfg.to} data.image_size={index.image_size}", end="")
    print(f" data.channels={index.channels}" if index.channels != 1 else "", end="")
    print(f" {list_override('data.labels', index.class_names)}" if index.class_names else "")


SHARDS = Command("shards", Shards, check, run)

if __name__ == "__main__":
    main(SHARDS, config_folder())
