"""Runs from the outside: the commands of the README as a user types them."""

import json
import subprocess
import sys

from tests.conftest import ROOT, TINY


def command(script, *arguments, cwd):
    return subprocess.run(
        [sys.executable, ROOT / script, *arguments], capture_output=True, text=True, cwd=cwd, timeout=300, check=False
    )


def test_the_life_of_a_sweep(tmp_path):
    sweep = ["-m", "name=s", "model=vae,saaae", "posterior.cap=0.95,0.99", "posterior=anchored", *TINY]
    first = command("train.py", *sweep, cwd=tmp_path)
    # A cap of 0.99 passes the types and is refused by the posterior itself: those two jobs fail, the others do not.
    assert first.returncode == 2, first.stderr
    assert first.stderr.count("error: posterior.cap=0.99") == 2
    assert "4 jobs in outputs/s" in first.stdout
    done = sorted(path.parent for path in tmp_path.glob("outputs/s/*/metrics.json"))
    assert [path.name.rsplit("-", 1)[0] for path in done] == ["model=saaae,cap=0.95", "model=vae,cap=0.95"]

    again = command("train.py", *sweep, cwd=tmp_path)
    assert again.stdout.count("finished already, nothing to do") == 2

    stored = json.loads((done[0] / "metrics.json").read_text())["test"]
    run = done[0].relative_to(tmp_path)
    # '=' and ',' in a value need quotes of Hydra's own.
    test = command("evaluate.py", f"run='{run}'", "accelerator=cpu", cwd=tmp_path)
    assert test.returncode == 0, test.stderr
    evaluation = json.loads((done[0] / "evaluation" / "own-best" / "metrics.json").read_text())
    assert evaluation["test"] == stored


def test_the_life_of_a_named_run(tmp_path):
    def train(*arguments):
        return command("train.py", *arguments, cwd=tmp_path)

    result = train("name=x", *TINY)
    assert result.returncode == 0, result.stderr
    assert "ssim" in result.stdout
    assert "finished already" in train("name=x", *TINY).stdout

    other = train("name=x", *TINY, "seed=1")
    assert other.returncode == 2
    assert other.stderr.startswith("error: ")
    assert "seed: 0 there, 1 asked" in other.stderr

    told = train("resume=outputs/x", "seed=1")
    assert (told.returncode, told.stderr.count("\n")) == (2, 1)
    assert "seed: not with resume=" in told.stderr

    assert "finished already" in train("resume=outputs/x").stdout
    extended = train("resume=outputs/x", "trainer.max_epochs=2")
    assert extended.returncode == 0, extended.stderr
    assert "continued from step 3" in extended.stdout
    assert json.loads((tmp_path / "outputs/x/metrics.json").read_text())["train"]["steps"] == 6
