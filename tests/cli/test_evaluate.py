"""What evaluate.py tests, prints and writes, run in this process."""

import json
import re
import resource
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf, open_dict
from PIL import Image

import saaae
from saaae.cli import evaluate
from saaae.config.resolvers import register_resolvers
from saaae.errors import UserError, disk_error
from saaae.evaluation.exports import traversed
from saaae.runs.folder import RunFolder
from saaae.runs.run import Run, resolve_config
from saaae.signals import Interruption
from saaae.training import fit
from tests.conftest import CONF, TINY
from tests.sweeps.test_leaderboard import write_run

OWN_DATA = [o for o in TINY if not o.startswith("data")] + ["data=folder", "data.image_size=32", "data.batch_size=4"]


def composed(name, *overrides, **options):
    register_resolvers()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, overrides=list(overrides), **options)


def images_in(root, count, level=0):
    """Files of 32x64 pixels, two tiles each."""
    root.mkdir()
    for number in range(count):
        pixels = np.random.default_rng(level + number).integers(0, 256, (32, 64), np.uint8)
        Image.fromarray(pixels).save(root / f"{number:02d}.png")
    return root


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run on a folder of 20 files (4 test tiles), of which one batch of 2 images was tested."""
    path = tmp_path_factory.mktemp("evaluate")
    root = images_in(path / "own", 20)
    cfg = resolve_config(
        composed(
            "train", *OWN_DATA, f"data.root={root}", f"cache_dir={path / 'cache'}", "model=vae", "callbacks=none",
            "logger=none", "data.batch_size=2", "trainer.limit_test_batches=1", "model.latent_dim=4",
        )
    )  # fmt: skip
    folder = RunFolder(path / "run")
    fit.fit(Run(cfg, folder, [], {"seed": 0}), Interruption())
    return folder


@pytest.fixture
def run_folder(finished, tmp_path):
    """A copy of the finished run; its data folder is not copied."""
    shutil.copytree(finished.path, tmp_path / "run")
    return RunFolder(tmp_path / "run")


@pytest.fixture
def evaluated(run_folder):
    def tested(*overrides):
        overrides = [f"run={run_folder.path}", *overrides]
        cfg = composed("evaluate", *overrides, return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        with open_dict(cfg):
            del cfg["hydra"]
        evaluate.check(cfg, overrides)
        return evaluate.run(cfg)

    yield tested
    HydraConfig.instance().cfg = None


def test_the_number_of_tested_images_is_printed_and_stored(evaluated, run_folder, capsys):
    results = evaluated()
    stored = json.loads(run_folder.metrics.read_text())
    assert results["test"] == stored["test"]
    assert (stored["run"]["tested_images"], results["run"]["tested_images"]) == (2, 2)
    assert (
        "testing      2 of 4 test images (limit of 1 batches; limit_batches=null tests all)" in capsys.readouterr().out
    )


@pytest.mark.parametrize(("limit", "tested", "name"), [("null", 4, "all"), ("1.0", 4, "1.0"), ("0.5", 2, "0.5")])
def test_a_limit_on_the_command_line_overrides_that_of_the_run(evaluated, run_folder, capsys, limit, tested, name):
    results = evaluated(f"limit_batches={limit}")
    assert results["run"]["tested_images"] == tested
    assert f"testing      {tested} of 4 test images" in capsys.readouterr().out
    assert (run_folder.path / f"evaluation/own-best-{name}-batches/metrics.json").is_file()


def test_a_limit_that_leaves_no_batch_is_refused(evaluated):
    with pytest.raises(UserError, match="limit_batches=0.1: leaves none of 2 batches"):
        evaluated("limit_batches=0.1")


@pytest.mark.parametrize("files", [1, 7])
def test_all_images_of_a_folder_that_the_run_was_not_trained_on_are_tested(evaluated, tmp_path, capsys, files):
    root = images_in(tmp_path / "other", files, level=100)
    results = evaluated("data=folder", f"data.root={root}", f"cache_dir={tmp_path}")
    assert results["run"]["images"] == {"train": 0, "val": 0, "test": 2 * files}
    assert results["run"]["tested_images"] == 2 * files
    printed = capsys.readouterr().out
    assert f"testing      {2 * files} of {2 * files} test images\n" in printed
    assert "warning" not in printed


def test_the_data_folder_of_the_run_keeps_its_split_after_a_move(evaluated, finished, tmp_path, capsys):
    own = evaluated("limit_batches=null")
    root = finished.path.parent / "own"
    shutil.copytree(root, tmp_path / "moved")
    for place in (root, tmp_path / "moved"):
        again = evaluated("data=folder", f"data.root={place}", "limit_batches=null", "data.batch_size=2")
        assert again["test"] == own["test"]
        assert again["run"]["images"] == {"train": 32, "val": 4, "test": 4}
    assert "warning" not in capsys.readouterr().out


def test_a_warning_names_test_files_that_the_model_was_trained_on(evaluated, finished, tmp_path, capsys):
    root = images_in(tmp_path / "mixed", 3, level=100)
    splits = json.loads(finished.splits.read_text())["splits"]
    shutil.copy(finished.path.parent / "own" / next(iter(splits["train"])), root / "known.png")
    evaluated("data=folder", f"data.root={root}")
    assert (
        "warning: the run was trained or validated on 1 of the tested files, such as known.png"
        in capsys.readouterr().out
    )


def test_codes_of_a_folder_without_validation_images_are_fitted_on_uncoded_images(evaluated, tmp_path):
    root = images_in(tmp_path / "other", 10, level=100)
    (code,) = evaluated("data=folder", f"data.root={root}", "code_steps=[1]")["codes"]
    assert code["images"] == 18
    assert code["bits_per_pixel"] == 8 * code["bytes"] / (18 * 32 * 32)


def test_codes_and_arrays_use_only_tested_images(evaluated, run_folder):
    (code,) = evaluated("code_steps=[1]", "save_arrays=100")["codes"]
    assert code["images"] == 2
    assert len(np.load(run_folder.path / "evaluation/own-best/arrays.npz")["target"]) == 2


def test_traversals_are_written_as_latents_and_images(evaluated, run_folder):
    path = run_folder.path / "evaluation/own-best/traversals.npz"
    evaluated("traversals=[2,0]")
    chosen = dict(np.load(path))
    assert chosen["dimension"].tolist() == [2, 0]
    assert (chosen["latents"].shape, chosen["images"].shape) == ((2, 9, 4), (2, 9, 1, 32, 32))
    assert chosen["latents"][0, :, 2] == pytest.approx(np.linspace(-3, 3, 9))
    assert np.ptp(chosen["latents"][0], axis=0)[[0, 1, 3]] == pytest.approx(0)
    network = saaae.load(run_folder.path).network
    with torch.no_grad():
        image = network.generate(torch.from_numpy(chosen["latents"][1, 3:4]))[0]
    assert chosen["images"][1, 3] == pytest.approx(image.numpy(), abs=1e-5)
    assert traversed(network, 3, torch.tensor([0.1, 0.4, 0.2, 0.3])) == [1, 3, 2]
    for word, message in (
        ("traversals=5", "traversals=5: the latent has 4 dimensions; expected at most 4"),
        ("traversals=[0,4]", "traversals: the latent has no dimension 4; expected 0 to 3"),
    ):
        with pytest.raises(UserError, match=message):
            evaluated(word)


def test_a_second_evaluation_keeps_the_codes_of_the_first(evaluated, run_folder):
    path = run_folder.path / "evaluation/own-best/metrics.json"
    evaluated("code_steps=[2]")
    first = json.loads(path.read_text())["codes"]
    evaluated("generate=2")
    assert json.loads(path.read_text())["codes"] == first
    evaluated("code_steps=[1]")
    assert [code["step"] for code in json.loads(path.read_text())["codes"]] == [1.0, 2.0]
    run_folder.best.write_bytes(run_folder.last.read_bytes())
    evaluated()
    assert "codes" not in json.loads(path.read_text())  # another checkpoint


def test_a_seed_changes_generated_images_and_samples(evaluated, run_folder):
    folder = run_folder.path / "evaluation"
    mean = evaluated("generate=2")["test"]
    evaluated("generate=2", "seed=5")
    own, other = (np.load(folder / name / "generated.npz")["images"] for name in ("own-best", "own-best-seed5"))
    assert not np.array_equal(own, other)
    assert evaluated("generate=2", "seed=5")["test"] == mean  # z = mean does not depend on the seed
    first, second, third = (evaluated("samples=sample", *seed)["test"] for seed in ((), ("seed=5",), ("seed=5",)))
    assert first["mse"] != second["mse"]
    assert second == third


def test_a_seed_without_random_output_is_rejected(evaluated):
    with pytest.raises(UserError, match="seed=5: goes with generate=<number of images> or samples=sample"):
        evaluated("seed=5")


def test_a_full_disk_is_reported_with_its_path_after_the_results_are_printed(evaluated, run_folder, capsys):
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            evaluated()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert disk_error(caught.value) == f"{run_folder.path}/evaluation/own-best/metrics.json: File too large"
    assert "ssim" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["data.corruption=jpeg", "model.posterior=diagonal"])
def test_an_option_name_in_place_of_a_mapping_is_reported_in_one_line(option):
    from saaae.cli.dry_run import Search
    from saaae.config.schema import Train
    from saaae.config.validation import config_errors

    key, _, value = option.rpartition(".")[2].partition("=")
    assert config_errors(composed("train", option), Train, Search(CONF).groups()) == [
        f"{option}: an option is chosen by its group; expected {key}={value}"
    ]


def test_evaluation_accepts_another_corruption_group(evaluated, run_folder, tmp_path):
    words = ["data=folder", f"data.root={OmegaConf.load(run_folder.resolved).data.root}", "data.batch_size=2"]
    with pytest.raises(UserError, match=r"expected \+corruption@data\.corruption=jpeg"):
        evaluated(*words, "data.corruption=jpeg")
    clean, corrupted = evaluated(*words), evaluated(*words, "+corruption@data.corruption=jpeg")
    assert clean["test"]["mse"] != corrupted["test"]["mse"]
    assert len(list((run_folder.path / "evaluation").iterdir())) == 2


def test_a_missing_codec_package_is_reported_before_the_test(finished, monkeypatch):
    monkeypatch.setattr(evaluate, "is_installed", lambda module: module != "constriction")
    words = [f"run='{finished.path}'", "code_steps=[1]"]
    with pytest.raises(UserError, match=r"code_steps: constriction is not installed; pip install -e '\.\[codec\]'"):
        evaluate.check(composed("evaluate", *words), words)


def test_any_finished_runs_are_compared(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "outputs/first", ["model=vae"], {"ssim": 0.5})
    write_run(tmp_path / "outputs/sweep/second", ["model=saaae"], {"ssim": 0.6})
    write_run(tmp_path / "outputs/third", ["model=saaae"])

    def compared(*runs, **others):
        words = [f"run=[{','.join(runs)}]", *(f"{key}={value}" for key, value in others.items())]
        cfg = composed("evaluate", *words)
        evaluate.check(cfg, words)
        assert evaluate.run(cfg) is None
        return capsys.readouterr().out

    printed = compared("outputs/first", "outputs/sweep/second")
    assert "model=saaae  ssim 0.6000  in second" in printed
    page = Path(re.search(r"leaderboard  (.*)\.csv", printed)[1] + ".md")
    assert page.parent.parent == Path("outputs/comparisons")
    assert page.read_text().startswith("# Leaderboard of 2 runs\n")
    links = re.findall(r"\]\((\S+?/)\)", page.read_text())
    assert {(page.parent / link).resolve() for link in links} == {
        tmp_path / "outputs/first", tmp_path / "outputs/sweep/second"
    }  # fmt: skip
    assert str(page.parent) in compared("outputs/sweep/second", "outputs/first", baseline=2)
    for runs, message in (
        (["outputs/first"], "expected at least two run folders"),
        (["outputs/first", "outputs/first/"], "outputs/first is given twice"),
        (["outputs/first", "outputs/third"], "outputs/third: the run has not finished"),
        (["outputs/first", "outputs/no"], "outputs/no: no such run folder"),
        (["outputs/first", "outputs/sweep"], "outputs/sweep: not a run folder"),
    ):
        with pytest.raises(UserError, match=message):
            compared(*runs)
    with pytest.raises(UserError, match="samples: not with several runs"):
        compared("outputs/first", "outputs/sweep/second", samples="mean")
    with pytest.raises(UserError, match="baseline=3: expected the number of a variant"):
        compared("outputs/first", "outputs/sweep/second", baseline=3)
