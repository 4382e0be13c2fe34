"""Runs in other processes: the commands of the README as a user types them."""

import json
from typing import NamedTuple

import pytest

from saaae.runs.folder import RunFolder
from tests.conftest import TINY
from tests.models.test_models import SMALL


class Result(NamedTuple):
    """Exit status and output of a command."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def command(zygote):
    def run(script, *arguments, cwd):
        child = zygote.start(cwd, *arguments, script=script)
        return Result(child.wait(), child.output, child.errors)

    return run


def test_the_life_cycle_of_a_sweep(command, tmp_path):
    sweep = ["-m", "name=s", "model=vae,saaae", "trainer.val_check_interval=1,1000", *TINY]
    first = command("train.py", *sweep, cwd=tmp_path)
    # The number of batches is known only after the data are read, so the two jobs that ask for 1000 of them fail.
    assert first.returncode == 2, first.stderr
    assert first.stderr.count("error: trainer.val_check_interval=1000: an epoch has 3 batches") == 2
    assert "4 jobs in outputs/s" in first.stdout
    done = sorted(path.parent for path in tmp_path.glob("outputs/s/*/metrics.json"))
    assert [path.name.rsplit("-", 1)[0] for path in done] == [
        "model=saaae,val_check_interval=1",
        "model=vae,val_check_interval=1",
    ]

    assert "leaderboard  outputs/s/leaderboard.csv" in first.stdout
    page = (tmp_path / "outputs/s/leaderboard.html").read_text()
    assert "model=saaae" in page
    assert "an epoch has 3 batches" in page  # the reason why two jobs failed

    again = command("train.py", *sweep, cwd=tmp_path)
    assert again.stdout.count("finished already, nothing to do") == 2
    (tmp_path / "outputs/s/leaderboard.md").unlink()
    compared = command("evaluate.py", "run=outputs/s", "baseline=2", cwd=tmp_path)
    assert compared.returncode == 0, compared.stderr
    assert "minus model=saaae" in (tmp_path / "outputs/s/leaderboard.md").read_text()
    for words, answer in [
        (["baseline=3"], "error: baseline=3: expected the number of a variant: 1 model=vae"),
        (["samples=mean"], "error: samples: not with several runs, which are compared as they were tested"),
    ]:
        refused = command("evaluate.py", "run=outputs/s", *words, cwd=tmp_path)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
        assert refused.stderr.startswith(answer)

    stored = json.loads((done[0] / "metrics.json").read_text())["test"]
    run = done[0].relative_to(tmp_path)
    # Hydra needs its own quotes around '=' and ',' in a value.
    test = command("evaluate.py", f"run='{run}'", cwd=tmp_path)
    assert test.returncode == 0, test.stderr
    evaluation = json.loads((done[0] / "evaluation" / "own-best" / "metrics.json").read_text())
    assert evaluation["test"] == stored


def test_the_life_cycle_of_a_named_run(command, tmp_path):
    def train(*arguments):
        return command("train.py", *arguments, cwd=tmp_path)

    result = train("name=x", "model=vae", *TINY)
    assert result.returncode == 0, result.stderr
    assert "ssim" in result.stdout
    assert "finished already" in train("name=x", "model=vae", *TINY).stdout

    other = train("name=x", "model=vae", *TINY, "seed=1")
    assert other.returncode == 2
    assert other.stderr.startswith("error: ")
    assert "seed: 0 there, 1 asked" in other.stderr

    told = train("resume=outputs/x", "seed=1")
    assert (told.returncode, told.stderr.count("\n")) == (2, 1)
    assert "seed: not with resume=" in told.stderr

    assert "finished already" in train("resume=outputs/x").stdout
    extended = train("resume=outputs/x", "trainer.max_epochs=2")
    shorter = train("resume=outputs/x", "trainer.max_epochs=1")
    assert (shorter.returncode, shorter.stderr) == (
        2, "error: trainer.max_epochs=1: the run has 2 epochs already; expected more\n",
    )  # fmt: skip
    assert extended.returncode == 0, extended.stderr
    assert "continued from step 3" in extended.stdout
    assert json.loads((tmp_path / "outputs/x/metrics.json").read_text())["train"]["steps"] == 6
    folder = RunFolder(tmp_path / "outputs/x")
    assert folder.overrides() == ["name=x", "model=vae", *TINY, "trainer.max_epochs=2"]
    chosen = folder.tags()
    assert (chosen["model"], chosen["data"], chosen["trainer.max_epochs"]) == ("vae", "speckle", 2)
    assert not {"name", "resume", "accelerator"} & set(chosen)  # no settings that do not change the numbers


def test_evaluation_accepts_other_data_on_the_command_line(command, tmp_path, monkeypatch):
    monkeypatch.delenv("SAAAE_DATA_DIR", raising=False)
    assert command("train.py", "name=x", *TINY, cwd=tmp_path).returncode == 0
    tiny = [word for word in TINY if word.startswith("data.num_")]
    other = command("evaluate.py", "run=outputs/x", "data=speckle", "data.looks=1", *tiny, cwd=tmp_path)
    assert other.returncode == 0, other.stderr
    assert "on data=speckle" in other.stdout
    again = command("evaluate.py", "run=outputs/x", "data=speckle", "data.looks=2", *tiny, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    folders = list((tmp_path / "outputs/x/evaluation").glob("speckle-best-*/metrics.json"))
    assert len(folders) == 2  # other settings of the data do not overwrite each other
    for words, answer in [
        (["data=mnist"], "error: data.image_size=32: expected 28"),
        (["data=speckle", "data.image_size=64"], "error: data.image_size=64: the model was built for 32"),
        (["data=sar"], f"error: data.root={tmp_path}/data/sar/mstar/scenes: expected an existing folder"),
    ]:
        refused = command("evaluate.py", "run=outputs/x", *words, cwd=tmp_path)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
        assert refused.stderr.startswith(answer), refused.stderr


def test_evaluation_writes_arrays_and_images_from_the_prior(command, tmp_path):
    import numpy as np

    words = ["name=x", *TINY, "model=aitex_vae", *SMALL["aitex_vae"], "model.encoder.dropout=0.5"]
    assert command("train.py", *words, cwd=tmp_path).returncode == 0
    stored = json.loads((tmp_path / "outputs/x/metrics.json").read_text())["test"]
    assert command("evaluate.py", "run=outputs/x", "save_arrays=6", cwd=tmp_path).returncode == 0
    arrays = np.load(tmp_path / "outputs/x/evaluation/own-best/arrays.npz")
    mse = np.mean((arrays["reconstruction"] - arrays["target"]) ** 2)
    assert mse == pytest.approx(stored["mse"], rel=1e-5)  # the images of the metrics, without dropout

    words = ["run=outputs/x", "save_arrays=5", "samples=sample", "generate=7", "code_steps=[0.5,2]"]
    found = command("evaluate.py", *words, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    folder = tmp_path / "outputs/x/evaluation/own-best-sample"
    assert found.stdout.count(" bits per pixel (") == 2
    assert {"reconstructions.png", "codes-0.5.bin", "codes-2.bin"} <= {path.name for path in folder.iterdir()}
    assert (folder / "pictures" / "prior.png").is_file()
    arrays = np.load(folder / "arrays.npz")
    assert {name: arrays[name].shape for name in arrays} == dict.fromkeys(
        ("input", "target", "reconstruction"), (5, 1, 32, 32)
    )
    assert all(
        arrays[name].dtype == np.float32 and 0 <= arrays[name].min() <= arrays[name].max() <= 1 for name in arrays
    )
    assert np.load(folder / "generated.npz")["images"].shape == (7, 1, 32, 32)
    assert (folder / "generated.png").is_file()
    sampled = json.loads((folder / "metrics.json").read_text())
    assert sampled["run"]["reconstructions"] == "z = sample"
    assert sampled["test"]["nll"] == stored["nll"]
    assert sampled["test"]["mse"] != stored["mse"]
    assert [code["step"] for code in sampled["codes"]] == [0.5, 2.0]
    own = json.loads((tmp_path / "outputs/x/evaluation/own-best/metrics.json").read_text())
    assert own["test"] == stored  # results from a sample do not overwrite those from the mean
    assert own["definitions"]["psnr"]["unit"] == "dB"
    for words, answer in [
        (["generate=2", "class=1"], "error: class=1: a VAE knows no classes\n"),
        (["class=1"], "error: class=1: goes with generate=<number of images>\n"),
        (["baseline=1"], "error: baseline=1: goes with run=<sweep folder> or run=[<run>,<run>]\n"),
        (["code_steps=[0]"], "error: code_steps=[0]: expected in a list each greater than or equal to 0.001\n"),
        (["samples=mode"], "error: samples=mode: expected 'mean' or 'sample'\n"),
    ]:
        refused = command("evaluate.py", "run=outputs/x", *words, cwd=tmp_path)
        assert (refused.returncode, refused.stderr) == (2, answer)
