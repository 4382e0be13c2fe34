"""Every benchmark runs in its smallest form; its measurements are not checked."""

import importlib.util
import json
import random
import re
import sys

import numpy as np
import pytest
import tifffile
import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from PIL import Image
from scipy.stats import ttest_1samp

import saaae
from saaae.config.resolvers import register_resolvers
from saaae.evaluation.detection import detection
from saaae.runs.folder import RunFolder
from saaae.runs.run import Run, resolve_config
from saaae.signals import Interruption
from saaae.training import fit
from saaae.training.build import build
from tests.conftest import CONF, ROOT, TINY
from tests.data.test_aitex import write_fabric
from tests.data.test_mnist import write_archives
from tests.inference.test_trained_model import CONVOLUTIONAL

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


@pytest.fixture
def fabric_run(tmp_path, stored_run):
    """Stores an untrained fabric U-Net, or another model, for tiles of 32 pixels, tested on its two fabrics."""
    root = write_fabric(tmp_path / "aitex")
    data = ["data.image_size=32", f"data.root={root}", f"cache_dir={tmp_path / 'cache'}"]

    def made(*words, name="run"):
        words = words or ("experiment=fabric", "data.crop=null", "model.encoder.widths=[8,8,8,8]")
        run = stored_run(*words, *data, name=name)
        model = saaae.load(run)
        found = {"detection": detection(model.network, model.data())}
        (run / "metrics.json").write_text(json.dumps(found).replace("NaN", "null"))
        return run

    return made


def test_fabric(monkeypatch, capsys, fabric_run):
    benchmark = load("fabric")
    run = fabric_run()
    plain = fabric_run("model=vae", "data=aitex", "model.encoder.widths=[4,4]", name="plain")
    monkeypatch.setattr(benchmark, "open_data", saaae.load(run).data)
    benchmark.main([str(run), str(run), str(plain)])
    found = capsys.readouterr().out
    assert "| patch PCA k=8 16x16 |" in found
    assert f"| {run}, flips true, residual 4 (2 runs), all |" in found
    assert f"| {run}, flips false, residual 0 (2 runs), all |" in found
    assert f"| {run}, Gaussian features (2 runs), all |" in found
    assert f"| {plain}, all |" in found


def test_results_of_several_runs_are_their_mean_and_range():
    runs = [{"tile": {"auroc": value, "auroc_low": 0.1, "auroc_high": 0.9}} for value in (0.5, 0.75)]
    assert load("fabric").of_runs(runs)["tile"] == {"auroc": 0.625, "auroc_low": 0.5, "auroc_high": 0.75}
    assert load("fabric").of_runs(runs[:1]) == runs[0]
    assert load("fabric").of_runs([{**runs[0], "reserved": {}}, runs[1]]).keys() == {"tile"}


def test_gaussian_features_are_measured_in_standard_deviations_of_the_features(monkeypatch):
    gaussians = load("fabric").Gaussians
    monkeypatch.setitem(gaussians.whitened.__globals__, "SHRINKAGE", 0.0)
    x = (torch.randn(500, 3) @ torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.1, 3.0], [0.5, 0.0, 1.0]]) + 7).double()
    mean, factor = gaussians.whitened(len(x), x.sum(0), x.T @ x)
    torch.testing.assert_close(((x - mean) @ factor).T.cov(correction=0), torch.eye(3).double())


def test_fabric_scoring(monkeypatch, capsys, fabric_run):
    benchmark = load("fabric_scoring")
    monkeypatch.setattr(benchmark, "SIGMAS", (1.0,))
    benchmark.main([str(fabric_run())])
    assert "| 1.0 | 4.0 | True |" in capsys.readouterr().out


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


def test_published_speckle(stored_run, monkeypatch, tmp_path, capsys):
    for folder in ("set12", "bsd68", "bsd400"):
        (tmp_path / "clean" / folder).mkdir(parents=True)
        Image.fromarray(np.full((30, 37), 128, np.uint8)).save(tmp_path / "clean" / folder / "1.png")
    benchmark = load("published_speckle")
    monkeypatch.setenv("SAAAE_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(benchmark, "LOOKS", (100,))
    monkeypatch.setitem(benchmark.FILTERS, "Frost", (benchmark.FILTERS["Frost"][0], [(3, 1.0)]))
    benchmark.main(stored_run(*TINY, *CONVOLUTIONAL["despeckler"]))
    rows = dict(re.findall(r"\| (.+) \| ([\d.]+) /", capsys.readouterr().out))
    assert 31 < float(rows["noisy"]) < 33  # amplitude has a standard deviation of 1 / (2 sqrt(L)) of its mean: 32.0 dB
    assert float(rows["Frost"]) > 38
    assert {"model", "model, flips"} < set(rows)


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


def test_prior_code(stored_run, capsys):
    load("prior_code").main([str(stored_run(*TINY, "model=saaae_prior", "model.latent_channels=2"))])
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert len(rows) == 9
    for *_, of_w, of_z, both in rows:
        assert float(both) == pytest.approx(float(of_w) + float(of_z), abs=0.11)


def test_the_bits_of_rounded_gaussians_are_their_entropy():
    values = np.random.default_rng(0).normal(1.5, 20.0, (100_000, 1))
    exact = np.log2(20.0 * np.sqrt(2 * np.pi * np.e))  # the differential entropy, for bins that are narrow
    assert load("prior_code").bits(np.rint(values), 1.5, np.array(20.0)) == pytest.approx(exact, abs=0.02)


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
    arms = ["vae", "learned-prior", "other-w"]
    small.append(f"arms={','.join(arms)}")
    benchmark.main(2, small)
    printed = capsys.readouterr().out
    monkeypatch.setattr("progressive.fit_in_stages", None)  # a repeated command trains nothing
    benchmark.main(2, small)
    assert capsys.readouterr().out == printed[printed.index("\n| mean of 2 seeds | ") :]
    lines = printed.splitlines()
    for arm in arms:
        assert sum(line.startswith(f"| {arm} | ") for line in lines) == 3 - (arm in benchmark.BASES)
    assert "| minus vae | elbo | iw_elbo | kl |" in printed
    assert "deletion_kl" in printed
    assert " +- " in printed


@pytest.mark.parametrize("arm", load("anchored_prior").ARMS)
def test_every_arm_of_the_anchored_prior_can_be_built(compose_config, arm):
    model = build(resolve_config(compose_config(*load("anchored_prior").ARMS[arm])))[0]
    assert model.is_variational


def test_an_unknown_arm_is_refused_before_anything_is_trained():
    with pytest.raises(SystemExit, match="arms=anchord: no such arm; expected some of vae, vae-warmup"):
        load("anchored_prior").main(1, ["arms=vae,anchord"])


def test_the_anchored_prior_is_compared_with_p_values_for_all_arms():
    base = [0.0, 0.0, 0.0, 0.0]
    values = {"vae": base, "a": [1.0, 2.0, 3.0, 4.0], "b": [1.0, 1.1, 0.9, 1.0], "c": [1.0, -1.0, 2.0, -2.5]}
    adjusted = load("anchored_prior").holm(values, "vae")
    alone = {arm: float(ttest_1samp(values[arm], 0.0).pvalue) for arm in "abc"}
    assert adjusted == pytest.approx({"b": 3 * alone["b"], "a": 2 * alone["a"], "c": alone["c"]})
    with_equal = load("anchored_prior").holm({**values, "same": base}, "vae")
    assert with_equal == pytest.approx({**adjusted, "same": float("nan")}, nan_ok=True)
