import functools
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from saaae.config.resolvers import register_resolvers
from saaae.config.settings import plain
from saaae.data.corruption import Identity
from saaae.runs.folder import RunFolder
from saaae.runs.run import resolve_config
from saaae.training.build import instantiated
from tests.zygote import Zygote

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
REAL_DATA = ROOT.parent / "shared" / "data"

TINY = [
    "data=speckle",
    "data.num_train=12",
    "data.num_val=6",
    "data.num_test=6",
    "data.image_size=32",
    "data.batch_size=4",
    "model.encoder.widths=[8,8]",
    "accelerator=cpu",
    "threads=1",
    "trainer.max_epochs=1",
    "trainer.log_every_n_steps=1",
]
"""Overrides for a run of a few seconds on generated 32-pixel images."""

SERVING = {"batch_size": 4, "num_workers": 0, "resident": False, "seed": 0, "corruption": Identity()}
"""Batch, device, seed and corruption settings of a data module under test."""


def output_of(code, cwd, package=ROOT):
    """What a program prints in a new process that finds `saaae` in a folder."""
    environment = {**os.environ, "PYTHONPATH": str(package)}
    words = [sys.executable, "-c", code]
    return subprocess.run(words, capture_output=True, text=True, cwd=cwd, env=environment, check=True).stdout


LONGEST = ("test_the_commands_of_a_page_run_in_their_order", "test_launchers_give_the_same_results_as_sequential_jobs")


def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Runs the longest tests and those of real processes first, so that short ones keep all workers busy to the end."""
    items.sort(key=lambda item: (item.originalname not in LONGEST, "zygote" not in item.fixturenames))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@functools.cache
def composed_once(name: str, overrides: tuple[str, ...]) -> bytes:
    """A composed configuration, pickled."""
    register_resolvers()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return pickle.dumps(compose(name, overrides=list(overrides)))


@functools.cache
def parsed_once(override: str) -> Override:
    """One parsed override."""
    return OverridesParser.create().parse_overrides([override])[0]


@pytest.fixture
def compose_config() -> Callable[..., DictConfig]:
    """Composes train.yaml (or another primary configuration) with overrides.

    Like Hydra it composes the chosen options and then sets the values (a.b=1), but each choice is composed only once.
    """

    def composed(*overrides: str, name: str = "train") -> DictConfig:
        values = [override for override in overrides if re.match(r"\w+(\.\w+)+=", override)]
        cfg = pickle.loads(composed_once(name, tuple(each for each in overrides if each not in values)))
        ConfigLoaderImpl._apply_overrides_to_config([parsed_once(value) for value in values], cfg)
        return cfg

    return composed


@pytest.fixture
def stored_run(compose_config, tmp_path) -> Callable[..., Path]:
    """Stores an untrained model as the best.ckpt of a run folder, without the seconds of a training."""

    def stored(*overrides: str, name: str = "run", **checkpoint) -> Path:
        cfg = resolve_config(compose_config(*overrides))
        torch.manual_seed(cfg.seed)
        model, folder = instantiated(cfg.model), RunFolder(tmp_path / name)
        folder.write_record(cfg, list(overrides), {})
        weights = {f"model.{key}": value for key, value in model.state_dict().items()}
        content = {"config": plain(cfg), "state_dict": weights, "global_step": 2, "validation": {}, "epoch": 1}
        folder.checkpoints.mkdir(parents=True, exist_ok=True)
        torch.save(content | checkpoint, folder.best)
        return folder.path

    return stored


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    """Starts the project's commands as real processes without the time for imports."""
    with Zygote() as started:
        yield started


def real_data(*parts: str) -> Path:
    """A folder of the real data sets; skips the test with a reason if it is missing."""
    folder = REAL_DATA.joinpath(*parts)
    if not folder.is_dir():
        pytest.skip(f"real data set {'/'.join(parts)} is not here")
    return folder
