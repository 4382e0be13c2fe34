"""`saaae.train`: the same run as the command's, in the process that asks for it."""

import asyncio
import csv
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import hydra
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.version import getbase

import saaae
from saaae.errors import RunFailedError, UserError
from tests.cli.test_command_line import MISTAKES
from tests.conftest import CONF, ROOT, TINY, output_of

WORDS = [*TINY, "model=vae", "logger=none", "callbacks=none", "pictures.count=1"]

MEASURED = ("train/images_per_second", "train/peak_memory_mb")
"""Metrics of the machine, not of the run."""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SAAAE_DATA_DIR", raising=False)


def curve(run):
    """The rows of metrics.csv without what a clock has measured."""
    with (run / "metrics.csv").open() as file:
        return [tuple(row.values()) for row in csv.DictReader(file) if row["metric"] not in MEASURED]


def results(run):
    """metrics.json without what a clock or the process's memory has measured."""
    content = json.loads((run / "metrics.json").read_text())
    for key in ("images_per_second", "peak_memory_mb", "seconds"):
        content["train"].pop(key, None)
    return content


def files(run):
    return {str(path.relative_to(run)) for path in run.rglob("*") if path.name != ".lock"}


def untimed(printed):
    """The lines of a run without the speed."""
    return [re.sub(r" +\d+ img/s.*", "", line) for line in printed.split("\n") if "images per second" not in line]


def test_the_run_is_that_of_the_command(zygote, tmp_path, capsys):
    words = [*TINY, "name=x", "model=saaae", "logger=csv", "trainer.max_epochs=2", f"data_dir={tmp_path}"]
    torch.manual_seed(torch.initial_seed() + 1)  # the caller's generator does not matter
    run = saaae.train(words)
    shown = capsys.readouterr().out
    assert run.folder == tmp_path / "outputs" / "x"
    assert (run.state, run.epochs, run.model, run.data) == ("done", 2, "saaae", "speckle")
    (tmp_path / "command").mkdir()
    status, printed = zygote.run(tmp_path / "command", *words)
    assert status == 0, printed
    other = tmp_path / "command" / "outputs" / "x"
    assert files(run.folder) == files(other)
    assert curve(run.folder) == curve(other)
    assert results(run.folder) == results(other)
    assert (run.folder / "config.yaml").read_text() == (other / "config.yaml").read_text()
    assert untimed(shown) == untimed(printed)
    assert saaae.load(run.folder).metrics == run.test == json.loads((other / "metrics.json").read_text())["test"]


def test_a_finished_run_is_returned_and_a_longer_one_continues_it(tmp_path, capsys):
    words = [*WORDS, "optimizer.schedule=constant"]
    run = saaae.train([*words, "name=x"])
    before = (run.folder / "metrics.json").read_bytes()
    capsys.readouterr()
    assert saaae.train([*words, "name=x"]) == run == saaae.list_runs(tmp_path / "outputs")[0]
    assert capsys.readouterr().out == "outputs/x: finished already, nothing to do\n"
    assert (run.folder / "metrics.json").read_bytes() == before
    with pytest.raises(UserError, match=r"holds a run with other settings \(seed: 0 there, 1 asked\)"):
        saaae.train([*words, "name=x", "seed=1"])
    assert saaae.train(["resume=outputs/x", "trainer.max_epochs=2"]).epochs == 2
    whole = saaae.train([*words, "name=y", "trainer.max_epochs=2"])
    assert curve(whole.folder) == curve(run.folder)


def test_runs_without_a_name_have_folders_of_their_own():
    first, second = (saaae.train([*WORDS, "trainer.max_steps=1", f"seed={seed}"]) for seed in (0, 1))
    assert first.folder.parent == second.folder.parent
    assert first.folder != second.folder


@pytest.mark.parametrize(("line", "answer"), MISTAKES[::7], ids=[line for line, _ in MISTAKES[::7]])
def test_a_mistake_is_the_line_of_the_command(tmp_path, line, answer):
    with pytest.raises(UserError) as error:
        saaae.train(line.split())
    assert str(error.value).startswith(answer)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("overrides", "answer"),
    [
        (["-m", "seed=0,1"], "-m: saaae.train trains one run; expected python train.py -m for a sweep"),
        (["seed=0,1"], "seed=0,1: saaae.train trains one run; expected python train.py -m for a sweep"),
        (["hydra.mode=MULTIRUN"], "hydra.mode=MULTIRUN: saaae.train trains one run; expected python train.py -m"),
        (["hydra/launcher=parallel"], "hydra/launcher=parallel: is for several jobs, with --multirun (-m)"),
        (["--config-dir=x"], "--config-dir=x: expected saaae.train(..., config_dir=<folder>)"),
        (["--cfg", "job"], "--cfg: expected key=value; options of the command line are for python train.py"),
        ("model=vae", "model=vae: expected a list of overrides, such as ['model=vae', 'seed=1']"),
        ([3], "3: expected text, such as 'seed=1'"),
        (["accelerator=ddp_cpu"], "accelerator.devices=2: saaae.train trains in one process; expected 1, or python"),
        (["hydra.job.chdir=true"], "hydra.job.chdir=true: not supported"),
    ],
)
def test_what_is_not_one_run_of_this_process_is_refused_in_one_line(tmp_path, overrides, answer, capsys):
    with pytest.raises(UserError) as error:
        saaae.train(overrides)
    assert str(error.value).startswith(answer)
    assert "\n" not in str(error.value)
    assert capsys.readouterr() == ("", "")
    assert not list(tmp_path.rglob("*.*"))


def test_processes_of_a_launcher_are_refused(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UserError, match=r"^saaae.train: trains in one process; expected python train.py for torchrun"):
        saaae.train([*WORDS, "name=x"])


def test_options_of_an_added_folder_are_found(tmp_path):
    (tmp_path / "own" / "model").mkdir(parents=True)
    (tmp_path / "own" / "model" / "mine.yaml").write_text((CONF / "model" / "vae.yaml").read_text())
    run = saaae.train([*TINY, "model=mine", "trainer.max_steps=1", "callbacks=none", "logger=none"], config_dir="own")
    assert run.model == "mine"
    with pytest.raises(UserError, match="--config-dir=nowhere: no such folder"):
        saaae.train([], config_dir="nowhere")


def test_a_failure_is_raised_in_one_line(tmp_path):
    with pytest.raises(RunFailedError, match="not finite"):
        saaae.train([*WORDS, "name=x", "optimizer.lr=1e30", "optimizer.gradient_clip=null"])
    assert saaae.list_runs()[0].state == "failed"
    (tmp_path / "outputs" / "file").write_text("")
    with pytest.raises(RunFailedError, match=r"outputs/file: exists and is not a folder$"):
        saaae.train([*WORDS, "name=file"])


def test_hydra_is_left_as_it_was():
    def state():
        hydra_of_caller = GlobalHydra.instance().hydra
        return hydra_of_caller, getbase(), HydraConfig.instance().cfg

    GlobalHydra.instance().clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hydra.initialize_config_dir(str(CONF), version_base="1.2")  # as a notebook does, without `with`
    before = state()
    saaae.train([*WORDS, "name=x", "trainer.max_steps=1"])
    with pytest.raises(UserError):
        saaae.train(["modle=vae"])
    with pytest.raises(UserError):
        saaae.train([*WORDS, "name=x", "seed=4"])
    assert state() == before
    assert hydra.compose("train", ["seed=3"]).seed == 3
    GlobalHydra.instance().clear()
    saaae.train([*WORDS, "name=x", "trainer.max_steps=1"])
    assert not GlobalHydra.instance().is_initialized()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        assert hydra.compose("train").seed == 0


def test_the_process_is_left_as_it_was(capsys, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")  # of the caller
    environment, threads = dict(os.environ), torch.get_num_threads()
    torch.use_deterministic_algorithms(False, warn_only=True)
    log, hook, argv = logging.getLogger("saaae"), threading.excepthook, sys.argv[:]
    handlers, filters = log.handlers[:], warnings.filters[:]
    handler, cwd = signal.getsignal(signal.SIGINT), os.getcwd()
    torch.set_num_threads(2)
    run = saaae.train([*WORDS, "name=x", "deterministic=true", "trainer.max_steps=1"])
    assert torch.get_num_threads() == 2
    torch.set_num_threads(threads)
    assert not torch.are_deterministic_algorithms_enabled()
    assert dict(os.environ) == environment
    assert (log.handlers, warnings.filters, threading.excepthook, sys.argv) == (handlers, filters, hook, argv)
    assert (signal.getsignal(signal.SIGINT), os.getcwd()) == (handler, cwd)
    before = (run.folder / "train.log").read_text()
    log.warning("after the run")
    assert (run.folder / "train.log").read_text() == before


def test_it_trains_in_a_thread_under_a_running_event_loop():
    async def cells():
        run = saaae.train([*WORDS, "name=loop", "trainer.max_steps=1"])  # as in a cell of a notebook
        with ThreadPoolExecutor(1) as pool:
            words = [*WORDS, "name=thread", "trainer.max_steps=1"]
            return run, await asyncio.get_running_loop().run_in_executor(pool, saaae.train, words)

    in_loop, in_thread = asyncio.run(cells())
    assert (in_loop.state, in_thread.state) == ("done", "done")
    assert curve(in_loop.folder) == curve(in_thread.folder)


@pytest.mark.processes
def test_ctrl_c_saves_and_raises_keyboard_interrupt(tmp_path):
    words = [*WORDS, "name=x", "trainer.max_epochs=1000"]
    code = f"""
import os, signal, threading, time, pathlib, saaae
def press():
    while not pathlib.Path("outputs/x/checkpoints/last.ckpt").is_file():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=press, daemon=True).start()
try:
    saaae.train({words!r})
except KeyboardInterrupt:
    print("caught", saaae.list_runs()[0].state)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment, check=True
    )
    assert "SIGINT: stopped; continue with   python train.py resume=outputs/x\n" in result.stdout
    assert result.stdout.endswith("caught preempted\n"), result.stdout + result.stderr
    with pytest.raises(UserError, match=r"trainer.max_epochs: 1000 there, 1 asked.*extend it with resume="):
        saaae.train([*WORDS, "name=x"])


def test_it_imports_no_torch_before_it_trains(tmp_path):
    code = (
        "import saaae, sys\n"
        "try:\n    saaae.train(['modle=vae'])\n"
        "except saaae.errors.UserError as error:\n    print(error, 'torch' in sys.modules)"
    )
    assert output_of(code, tmp_path) == "modle: no such key; did you mean model? False\n"
