"""Every benchmark runs in its smallest form; its measurements are not checked."""

import importlib.util
import random
import sys

import numpy as np
import pytest
import tifffile
import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from PIL import Image

from saaae.config.resolvers import register_resolvers
from saaae.runs.folder import RunFolder
from saaae.runs.run import Run, resolve_config
from saaae.signals import Interruption
from saaae.training import fit
from tests.conftest import CONF, ROOT, TINY
from tests.data.test_aitex import write_fabric
from tests.data.test_mnist import write_archives

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


def test_export(capsys):
    GlobalHydra.instance().clear()
    load("export").main(
        {"vae": ["model=vae", "model.latent_channels=2", "data.image_size=32", "model.encoder.widths=[8,8]"]}
    )
    assert "| any multiple of 4 |" in capsys.readouterr().out


def test_inference(monkeypatch, capsys):
    GlobalHydra.instance().clear()
    benchmark = load("inference")
    monkeypatch.setattr(benchmark, "SECONDS", 0.0)
    monkeypatch.setattr(benchmark, "BATCHES", (1, 3))
    small = ["model=vae", "model.latent_dim=4", "data.image_size=32", "model.encoder.widths=[8,8]"]
    benchmark.main(1, rows={"vae": small})
    printed = capsys.readouterr().out
    assert "| vae | 1 | " in printed
    assert "| vae | 3 | " in printed


def test_explore(capsys, stored_run):
    run = stored_run(*TINY, "model=vae", "model.latent_channels=2")
    load("explore").main(str(run), 2)
    assert "| 16 samples | " in capsys.readouterr().out


def test_metrics(monkeypatch, capsys):
    benchmark = load("metrics")
    monkeypatch.setattr(benchmark, "SEEDS", range(1))
    benchmark.main()
    assert "| ssim |" in capsys.readouterr().out


def test_fabric(monkeypatch, capsys, compose_config, tmp_path):
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


@pytest.fixture
def precision(monkeypatch):
    benchmark = load("precision")
    scenes = ["data.num_train=8", "data.num_val=2", "data.num_test=2", "data.image_size=32"]
    monkeypatch.setattr(benchmark, "SCENES", scenes)
    monkeypatch.setattr(benchmark, "SEEDS", (0, 1))
    monkeypatch.setattr(benchmark, "options", {"model": ["vae"], "likelihood": ["bernoulli"]}.get)
    register_resolvers()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield benchmark


def test_precision(precision, tmp_path):
    losses = precision.losses("vae", "bernoulli", "bf16-mixed", 2, False, str(tmp_path))
    assert losses.shape == (2,)
    assert torch.isfinite(losses).all()


def test_precision_over_seeds_and_over_likelihoods(precision, capsys, tmp_path):
    precision.seeds(["32-true"], 4, False, str(tmp_path))
    precision.pairs(["bf16-mixed"], 4, False, str(tmp_path))
    printed = capsys.readouterr().out
    assert "| vae | bernoulli |" in printed
    assert "bf16-mixed: half within" in printed


def test_training_in_a_separate_process(monkeypatch):
    benchmark = load("training")
    monkeypatch.setattr(benchmark, "STEPS", 2)
    monkeypatch.setattr(benchmark, "BATCH", 4)
    assert benchmark.speed(keep=True) > 0


def test_data(monkeypatch, capsys):
    benchmark = load("data")
    small = ["data=speckle", "data.num_train=12", "data.num_val=6", "data.num_test=6", "data.image_size=32"]
    monkeypatch.setattr(benchmark, "SETS", {"speckle": small})
    benchmark.speed(1)
    benchmark.counts()
    benchmark.memory("speckle")
    printed = capsys.readouterr().out
    assert "| speckle | test |" in printed
    assert "speckle: growth / tiles" in printed


def test_deblurring(tmp_path, capsys):
    write_archives(tmp_path / "mnist")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/metrics.json").write_text('{"test": {"psnr": 20.0, "ssim": 0.5}}')
    load("deblurring").main(["run"], [f"data.root={tmp_path / 'mnist'}", "data.num_val=5"])
    printed = capsys.readouterr().out
    assert "| ridge regression |" in printed
    assert "| run | 20.00 | 0.5000 |" in printed


def test_despeckling(monkeypatch, tmp_path, capsys, compose_config):
    sizes = ["data.scene_size=32", "data.num_val=1", "data.num_test=1", "model.encoder.blocks=[1,1]"]
    words = [*TINY, "experiment=despeckle", *sizes, "callbacks=none"]
    run = Run(resolve_config(compose_config(*words)), RunFolder(tmp_path / "run"), words, {"seed": 0})
    fit.fit(run, Interruption())
    benchmark = load("despeckling")
    monkeypatch.setattr(benchmark, "LAWS", [(1, 0.0)])
    monkeypatch.setattr(benchmark, "FILTERS", {name: (f, grid[:1]) for name, (f, grid) in benchmark.FILTERS.items()})
    benchmark.main([str(tmp_path / "run")])
    printed = capsys.readouterr().out
    assert all(f"| {name} |" in printed for name in ("noisy", "boxcar", "Lee", "Frost", "despeckler"))
    unseen = {"UNSEEN_LAWS": [(1, 0.0), (1, 0.6)], "UNSEEN": {"val": (1, 1), "test": (6, 2)}}
    for name, small in {"SIDE": 64, **unseen}.items():
        monkeypatch.setattr(benchmark, name, small)
    monkeypatch.setenv("SAAAE_DATA_DIR", str(tmp_path))
    benchmark.main([str(tmp_path / "run")], unseen=True, real=True)
    assert "skipped, there is no folder sar" in capsys.readouterr().out
    (tmp_path / "sar/mstar/scenes").mkdir(parents=True)
    (tmp_path / "sar/sentinel1").mkdir()
    noise = np.random.default_rng(0).exponential(40, (70, 80))
    Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(tmp_path / "sar/mstar/scenes/scene.png")
    tifffile.imwrite(tmp_path / "sar/sentinel1/city.tif", noise.astype(np.float32))
    benchmark.main([str(tmp_path / "run")], unseen=True, real=True)
    printed = capsys.readouterr().out
    assert "| braided_river |" in printed
    assert "L = 1, correlated 0.6" in printed
    assert all(f"| {name} |" in printed for name in ("scene", "city"))


def test_unseen_scenes(tmp_path):
    benchmark = load("unseen_scenes")
    benchmark.main(tmp_path / "unseen.png")
    scenes = benchmark.unseen_scenes(6, 64, 0)
    assert (tmp_path / "unseen.png").is_file()
    assert torch.equal(scenes, benchmark.unseen_scenes(12, 64, 0)[:6])
    assert (scenes.flatten(1).std(1) > 0.05).all()


def test_predict(stored_run, monkeypatch, capsys):
    benchmark = load("predict")
    monkeypatch.setattr(benchmark, "in_process", lambda work, *arguments: work(*arguments))
    run = stored_run(*TINY, "model=vae", "model.latent_channels=2")
    benchmark.main(str(run), 96, 64)
    printed = capsys.readouterr().out
    assert "seconds per megapixel" in printed
    assert "peak memory for 64 x 64" in printed


def test_speckle(capsys):
    load("speckle").main(fields=1, size=32)
    assert "| 10 | 0.6 |" in capsys.readouterr().out


def test_streaming(monkeypatch, tmp_path, capsys):
    scenes = tmp_path / "sar/mstar/scenes"
    scenes.mkdir(parents=True)
    for i in range(10):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (48, 48), np.uint8)).save(scenes / f"scene{i}_0.png")
    monkeypatch.setenv("SAAAE_DATA_DIR", str(tmp_path))
    benchmark = load("streaming")
    monkeypatch.setattr(benchmark, "COPIES", 2)
    monkeypatch.setattr(benchmark, "SHARD_IMAGES", 16)
    monkeypatch.setattr(benchmark, "SHARED", ["data.batch_size=4", "data.image_size=16"])
    benchmark.main(1, train=False)
    printed = capsys.readouterr().out
    assert "stream, a folder" in printed
    assert "stream, a cache below the data set" in printed


@pytest.mark.processes
def test_crash(monkeypatch, tmp_path, zygote):
    benchmark = load("crash")
    random.seed(0)
    monkeypatch.setattr(benchmark.random, "randint", lambda low, high: 1)  # number of kills of a run
    words = [*TINY, "model=vae", "callbacks=none", "checkpoint.every_n_steps=1"]
    tally = benchmark.Tally()
    benchmark.scenario(zygote, tmp_path, "vae", words, None, tally, 1)
    assert tally.finished
    assert (tally.unreadable, tally.inexact) == (0, 0)
    benchmark.print_row("vae", tally)


def test_progressive(monkeypatch, capsys, tmp_path):
    benchmark = load("progressive")
    monkeypatch.setattr(benchmark, "OUTPUTS", tmp_path)
    small = ["data.num_train=8", "data.num_val=4", "data.num_test=4", "data.batch_size=4", "model.encoder.widths=[8,8]"]
    small += ["stages=[[16,1]]", "data.image_size=32", "model.latent_channels=2", "model.latent_dim=null", "threads=1"]
    benchmark.main(1, [*small, "accelerator=cpu", "trainer.max_epochs=1", "callbacks=none", "logger=none"])
    printed = capsys.readouterr().out
    assert "| grown | 0 | " in printed
    assert "| full size | 0 | " in printed


def test_anchored_prior(monkeypatch, capsys, tmp_path):
    benchmark = load("anchored_prior")
    monkeypatch.setattr(benchmark, "OUTPUTS", tmp_path)
    small = ["data.num_train=4", "data.num_val=2", "data.num_test=2", "data.batch_size=4", "model.encoder.widths=[4,4]"]
    small += ["data.image_size=32", "model.latent_channels=2", "model.latent_dim=null", "threads=1", "accelerator=cpu"]
    small += ["trainer.max_epochs=1", "callbacks=none", "logger=none", "importance_samples=2"]
    benchmark.main(2, small)
    printed = capsys.readouterr().out
    monkeypatch.setattr("progressive.fit_in_stages", None)  # a repeated command trains nothing
    benchmark.main(2, small)
    assert capsys.readouterr().out == printed[printed.index("\n| mean of 2 seeds | ") :]
    lines = printed.splitlines()
    for arm in benchmark.ARMS:
        assert sum(line.startswith(f"| {arm} | ") for line in lines) == 3 - (arm in ("vae", "learned-prior"))
    assert "| minus vae | elbo | iw_elbo | kl |" in printed
    assert "deletion_kl" in printed
    assert " +- " in printed
