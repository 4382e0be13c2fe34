"""Which runs may be ranked together: those that were tested on the same images against the same targets."""

import hashlib
import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from saaae.config.settings import marked
from saaae.ranges import TARGET

if TYPE_CHECKING:
    from saaae.sweeps.summary import RunSummary

SERVING = ("batch_size", "num_workers", "resident", "seed", "corruption", "cache_dir", "cache_gb", "shuffle_shards",
           "on_error", "allow_duplicates")  # fmt: skip
"""Settings of the data that change neither the test images nor the targets."""

OF_TRAINING = ("_target_", "images", "num_train", "num_val", "val_fraction")
"""What a heading leaves out: it has the first two in words, and the others say little about test images."""


class Tested(NamedTuple):
    """What a run was tested on.

    Attributes:
        task: Equal texts mean equal test images and targets.
        settings: Settings of the data without the seed, and `images`, the number of tested images.
    """

    task: str
    settings: dict[str, Any]


def tested_on(cfg: DictConfig, record: dict[str, Any], splits: dict[str, Any]) -> Tested:
    """What a run was tested on, from its configuration, the `run` part of metrics.json and splits.json.

    The digest of the test split counts, not that of all splits: a smaller training set leaves the test images alone.
    """
    limit, size = OmegaConf.select(cfg, "trainer.limit_test_batches"), record.get("images", {}).get("test")
    images = record.get("tested_images")
    if limit is None or (limit == 1.0 and isinstance(limit, float)):
        images = size
    elif images is None:
        images = f"{limit} batches of {OmegaConf.select(cfg, 'data.batch_size')} test images"
    digest = record.get("split_hash")
    if splits.get("hash") == digest and {"splits", "sources", "settings"} <= set(splits):
        names = splits["splits"].get("test", {})
        digest = [names, {name: splits["sources"].get(name) for name in names}, splits["settings"]]
    targets = [str(OmegaConf.select(cfg, key)) for key in marked(TARGET, OmegaConf.select(cfg, "data._target_") or "")]
    task = json.dumps([digest, *targets, images], sort_keys=True)
    data = OmegaConf.to_container(cfg.data) if isinstance(cfg.get("data"), DictConfig) else {}
    assert isinstance(data, dict)
    settings = {str(key): value for key, value in data.items() if key not in SERVING}
    return Tested(task, settings | {"images": images})


def comparable(runs: Sequence["RunSummary"]) -> list[list["RunSummary"]]:
    """Groups of runs whose numbers compare, in the order of their first runs.

    Test images may depend on the seed, so runs of different seeds compare if their data settings are the same. If two
    runs with the same settings and seed had different test images, only runs on identical images compare. Different
    settings (of the training images, say) compare if they share test images under some seed and differ under none.
    """
    families: dict[str, list[RunSummary]] = {}
    for run in runs:
        families.setdefault(json.dumps(run.data, sort_keys=True), []).append(run)
    groups: list[list[RunSummary]] = []
    for family in families.values():
        for part in [family] if _agree(family) else _by_task(family):
            known = (group for group in groups if _images(group) & _images(part) and _agree(group + part))
            if group := next(known, None):
                group += part
            else:
                groups.append(list(part))
    return groups


def _images(runs: Sequence["RunSummary"]) -> set[tuple[int | None, str]]:
    return {(run.seed, run.task) for run in runs}


def _agree(runs: Sequence["RunSummary"]) -> bool:
    """Whether runs of the same seed were tested on the same images."""
    return len(_images(runs)) == len({run.seed for run in runs})


def _by_task(runs: Sequence["RunSummary"]) -> list[list["RunSummary"]]:
    return [[run for run in runs if run.task == task] for task in dict.fromkeys(run.task for run in runs)]


def headings(groups: Sequence[Sequence["RunSummary"]]) -> list[str]:
    """A different text for each group: its data set, the settings that only it has, and the number of test images."""
    first = [group[0] for group in groups]
    names = [_name(run) for run in first]
    found = []
    for name, run in zip(names, first, strict=True):
        others = [other.data for other, kind in zip(first, names, strict=True) if kind == name]
        keys = [key for key in run.data if key not in OF_TRAINING]
        words = [f"data.{key}={run.data[key]}" for key in keys if any(o.get(key) != run.data[key] for o in others)]
        images = run.data.get("images")
        count = [] if images is None else [images if isinstance(images, str) else f"{images} test images"]
        found.append(", ".join([name, *words, *count]))
    return [
        f"{text}, digest {hashlib.sha256(run.task.encode()).hexdigest()[:6]}" if found.count(text) > 1 else text
        for text, run in zip(found, first, strict=True)
    ]


def _name(run: "RunSummary") -> str:
    """The data set as its option is written."""
    kind = str(run.data.get("_target_", "")).rpartition(".")[2]
    return f"data={re.sub('data$', '', kind.lower())}" if kind else "test data"
