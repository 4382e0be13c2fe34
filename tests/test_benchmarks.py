"""Every benchmark starts, in its smallest form; what it measures is not looked at."""

import importlib.util
import sys

import pytest
import torch

from tests.conftest import ROOT, TINY

BENCHMARKS = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py"))


def load(name):
    """A benchmark as a module."""
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_can_be_loaded(name):
    assert (load(name).__doc__ or "").strip()


def test_attention(monkeypatch, capsys):
    benchmark = load("attention")
    monkeypatch.setattr(benchmark, "SIZES", (8,))
    benchmark.main(64)
    assert "| cbam |" in capsys.readouterr().out


def test_metrics(monkeypatch, capsys):
    benchmark = load("metrics")
    monkeypatch.setattr(benchmark, "SEEDS", range(1))
    benchmark.main()
    assert "| ssim |" in capsys.readouterr().out


def test_fabric(monkeypatch, capsys, compose_config, tmp_path):
    from hydra.utils import instantiate

    from tests.data.test_aitex import write_fabric

    root = write_fabric(tmp_path / "aitex")
    words = ["experiment=aitex_vae", f"data.root={root}", "data.image_size=32", f"cache_dir={tmp_path / 'cache'}"]
    data = instantiate(compose_config(*words).data, _convert_="all")
    data.setup()
    benchmark = load("fabric")
    monkeypatch.setattr(benchmark, "open_data", lambda: data)
    benchmark.main([])
    assert "| patch PCA k=8 16x16 |" in capsys.readouterr().out


def test_training(monkeypatch, capsys):
    benchmark = load("training")
    monkeypatch.setattr(benchmark, "STEPS", 2)
    monkeypatch.setattr(benchmark, "BATCH", 4)
    benchmark.compare(1, checkpoints=True)
    assert "round 1: none" in capsys.readouterr().out


def test_seeing(capsys):
    load("seeing").main(TINY)
    assert "| radar metrics |" in capsys.readouterr().out


def test_precision(monkeypatch, tmp_path):
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from saaae.config.resolvers import register_resolvers

    benchmark = load("precision")
    monkeypatch.setattr(
        benchmark, "SCENES", ["data.num_train=8", "data.num_val=2", "data.num_test=2", "data.image_size=32"]
    )
    register_resolvers()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        losses = benchmark.losses("vae", "bernoulli", "bf16-mixed", 2, False, str(tmp_path))
    assert losses.shape == (2,)
    assert torch.isfinite(losses).all()
