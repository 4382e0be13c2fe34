"""Errors in command lines: one line with the key, valid values and the nearest name; no torch, no data, no files."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from saaae.cli.dry_run import Search, check_command_line
from saaae.cli.evaluate import EVALUATE
from saaae.cli.launchers import LAUNCHERS_AND_SWEEPERS
from saaae.cli.train import TRAIN, dry_build
from saaae.config.overrides import quote_paths
from saaae.config.resolvers import register_resolvers
from tests.conftest import CONF, ROOT

MISTAKES = [
    ("modle=vae", "modle: no such key; did you mean model?"),
    ("model=vaee", "model=vaee: no such option; expected one of aitex_vae, cbam_ae, "),
    ("posterior.kl=nominl", "posterior.kl=nominl: expected 'effective', 'nominal' or 'budget'; did you mean nominal?"),
    ("epochs=3", "epochs: expected trainer.max_epochs"),
    ("data=mnist data.num_train=5", "data.num_train: the default data has this key, the one chosen here has not"),
    ("trainer.max_epoch=3", "trainer.max_epoch: no such key; did you mean trainer.max_epochs?"),
    ("trainer.max_epochs=ten", "trainer.max_epochs=ten: expected -1 or an integer"),
    ("trainer.max_epochs=-1", "trainer.max_epochs=-1: nothing ends the run"),
    ("name=..", "name=..: expected the name of a folder below outputs"),
    ("resume=", "resume=: expected a run folder"),
    ("trainer.max_epochs=0", "trainer.max_epochs=0: expected"),
    ("+trainer.num_nodes=2", "trainer.num_nodes: expected accelerator="),
    (
        "name=a=b,c=d",
        "name=a=b,c=d: not of the form key=value; a value with = or other special characters needs quotes: \"name='a",
    ),
    (
        "cache_dir=~/x",
        "cache_dir=~/x: not of the form key=value; a value with = or other special characters needs quotes",
    ),
    ("data.image_size=65536", "data.image_size=65536: expected less than or equal to 4096"),
    ("beta=linear beta.warmup=2.5", "beta.warmup=2.5: expected"),
    ("callbacks=null", "callbacks=null: expected one of default, none"),
    ("trainer.max_time=abc", "trainer.max_time=abc: expected"),
    ("trainer.max_time=00:00:00:00", "trainer.max_time=00:00:00:00: no time to train; expected days:hours:minutes:"),
    ("threads=100000", "threads=100000: expected less than or equal to 1024"),
    ("trainer.overfit_batches=2", "trainer.overfit_batches: expected trainer.limit_train_batches"),
    ("seed=99999999999", "seed=99999999999: expected less than"),
    ("beta.value=inf", "beta.value=inf: expected a finite number"),
    ("optimizer.lr=nan", "optimizer.lr=nan: expected a finite number"),
    ("name=${seed}", "name=0: expected text"),
    ("name=/elsewhere/x", "name=/elsewhere/x: expected the name of a folder below outputs"),
    (f"name={'n' * 300}", "name=nnnnnnnnnnnnnnnnnnnn...: too long; expected at most 200 bytes"),
    ("+trainer.ckpt_path=x", "trainer.ckpt_path: expected resume= instead"),
    ("trainer.ckpt_path=x", "trainer.ckpt_path: expected resume= instead"),
    ("+trainer.fast_dev_run=true", "trainer.fast_dev_run: expected trainer.max_steps=1 instead"),
    (
        "trainer.limit_train_batches=0",
        "trainer.limit_train_batches=0: expected an integer greater than or equal to 1 or a fraction greater than 0",
    ),
    ("model=[vae,saaae]", "model=[vae,saaae]: a list; several runs need model=vae,saaae and --multirun (-m)"),
    ("model=vea model=saaae", "model=vea: no such option; expected one of"),
    (
        "callbacks=early_stopping callbacks=none",
        "callbacks=early_stopping: no such option; expected one of default, none",
    ),
    ("hydra.job.chdir=true", "hydra.job.chdir=true: not supported"),
    ("hydra.sweep.dir=x", "hydra.sweep.dir=x: is for --multirun (-m)"),
    ("posterior.cap=0.99", "posterior.cap=0.99: expected less than or equal to 0.9698"),
    ("trainer.devices=2", "trainer.devices: expected accelerator.devices"),
    ("seed=1.5", "seed=1.5: expected an integer"),
    ("beta.value=-1", "beta.value=-1: expected greater than or equal to 0"),
    ("beta.value=abc", "beta.value=abc: expected a number"),
    ("beta.value=", "beta.value=: expected a number"),
    ("+beta.vlaue=1", "beta.vlaue: no such key; did you mean beta.value?"),
    ("+colour=red", "colour: no such key"),
    ("data.image_size=30", "data.image_size=30: expected a multiple of 4"),
    ("data=sar", "data.root=data/sar/mstar/scenes: expected an existing folder"),
    ("data=mnist data.image_size=32", "data.image_size=32: expected 28"),
    ("data.looks=0", "data.looks=0: expected greater than or equal to 0.01"),
    ("data.correlation=1", "data.correlation=1: expected less than 1"),
    ("data.looks=1e12", "data.looks=1000000000000.0: expected"),
    ("data.looks=1e-9", "data.looks=1e-09: expected"),
    ("data=sar data.root=. data.scale=db", "data.scale=db: expected 'amplitude', 'intensity' or 'decibel'"),
    ("data=folder data.root=. data.test_root=nowhere", "data.test_root=nowhere: expected an existing folder"),
    ("data=folder data.root=. data.on_error=ignore", "data.on_error=ignore: expected 'raise' or 'skip'"),
    ("data=folder data.root=. data.chanels=3", "data.chanels: no such key; did you mean data.channels?"),
    ("data=folder data.root=. data.channels=2", "data.channels=2: expected 1 or 3"),
    ("data=aitex data.root=. data.resident=yes please", "please: not of the form key=value"),
    ("data=aitex data.root=. data.val_fraction=1", "data.val_fraction=1: expected less than 1"),
    ("corruption=jpg", "corruption=jpg: no such option; expected one of"),
    ("accelerator=cpu accelerator.precision=16-mixed", "accelerator.precision=16-mixed: needs a GPU"),
    (
        "accelerator.precision=fp8",
        "accelerator.precision=fp8: expected '32-true', 'bf16-mixed', '16-mixed', 'bf16-true' or '64-true'",
    ),
    (
        "accelerator=cpu accelerator.precision=16-true",
        "accelerator.precision=16-true: expected '32-true', 'bf16-mixed'",
    ),
    ("accelerator=fsdp accelerator.memory_format=channels_last", "accelerator.memory_format=channels_last: not with"),
    ("accelerator=mps accelerator.strategy=fsdp", "accelerator.strategy=fsdp: Apple machines have one GPU"),
    (
        "accelerator=fsdp accelerator.precision=16-mixed",
        "accelerator.precision=16-mixed: not with accelerator.strategy",
    ),
    ("accelerator=cpu accelerator.devices=auto", "accelerator.devices=auto: is for GPUs"),
    ("accelerator=mps accelerator.devices=2", "accelerator.devices=2: Apple machines have one GPU"),
    ("accelerator=mps accelerator.precision=64-true", "accelerator.precision=64-true: Apple's GPU has no 64-bit"),
    ("accelerator=ddp accelerator.num_nodes=0", "accelerator.num_nodes=0: expected greater than or equal to 1"),
    ("accelerator=base", "accelerator=base: no such option; expected one of auto, cpu, ddp"),
    ("accelerator=dpp", "accelerator=dpp: no such option; expected one of auto, cpu, ddp"),
    ("objective=val/sim", "objective=val/sim: expected 'val/ssim', 'val/psnr'"),
    ("hydra/launcher=slrum", "hydra/launcher=slrum: expected one of basic, parallel"),
    ("hydra/launcher=parallel", "hydra/launcher=parallel: is for several jobs, with --multirun (-m)"),
    ("hydra/sweeper=optuna", "hydra/sweeper=optuna: is for several jobs, with --multirun (-m)"),
    ("likelihood=bernoulli likelihood.activation=tanh", "likelihood.activation=tanh: expected 'sigmoid'"),
    ("attention=cbam attention.layer.kernel_size=5", "attention.layer.kernel_size=5: expected 3 or 7"),
    (
        "attention=cbam attention.placement=middle",
        "attention.placement=middle: expected 'none', 'bottleneck', 'encoder'",
    ),
    ("attention=self attention.allow_large=true", "attention.allow_large: expected attention.layer.allow_large"),
    ("posterior=low_rank posterior.rank=0", "posterior.rank=0: expected greater than or equal to 1"),
    ("experiment=denoising_skip likelihood.activation=tanh", "likelihood.activation=tanh: expected 'sigmoid'"),
    ("beta=free_bit", "beta=free_bit: no such option; expected one of capacity, constant"),
    ("model=vae,saaae", "model=vae,saaae: several values need --multirun (-m)"),
    ("trainer.max_epochs", "trainer.max_epochs: not of the form key=value"),
    ("checkpoint.monitor=val/loss", "checkpoint.monitor=val/loss: expected"),
    ("resume=outputs/nowhere", "outputs/nowhere: no such run folder"),
    ("init_from=outputs/nowhere", "init_from=outputs/nowhere: no such run folder, checkpoint or exported model"),
    ("init_from=.", "init_from=.: neither a run folder nor an exported model"),
    ("freeze=encoder", "freeze=encoder: expected a list"),
    ("ema=1", "ema=1: expected less than 1"),
    ("stages=[[32,1],[16,1]]", "stages=[[32,1],[16,1]]: expected image sizes that grow, all below data.image_size=64"),
    ("stages=[[64,1]]", "stages=[[64,1]]: expected image sizes that grow"),
    ("stages=[[30,1]]", "stages=[[30, 1]]: expected in a list each a multiple of 4"),
    ("ema=0.9 accelerator=fsdp", "ema=0.9: not with accelerator.strategy=fsdp; expected ddp"),
    ("posterior.map=uniform posterior.factor=outputs/nowhere", "outputs/nowhere: no such run folder"),
    ("~beta.value", "beta.value: missing"),
]

CLASHES = [
    ("posterior.map=uniform", "posterior.factor=null: posterior.map=uniform needs a number"),
    ("posterior.map=uniform posterior.factor=0.5 posterior.kl=budget", "posterior.kl=budget: has nothing"),
    (
        "data.looks=2.3 data.correlation=0.3",
        "data.looks=2.3: correlated speckle (data.correlation=0.3)",
    ),
    ("corruption=speckle corruption.looks=2.3 corruption.correlation=0.3", "corruption.looks=2.3: correlated"),
    (
        "corruption=speckle corruption.looks='${data.looks}' corruption.correlation=0.3 data.looks=[1,2.3]",
        "corruption.looks=[1, 2.3]: correlated",
    ),
    ("data=sar data.root=. data.target=clean", "data.target=clean: needs the other images of data.reference_root"),
    ("model.latent_dim=4 model.latent_channels=2", "model.latent_dim=4, model.latent_channels=2: expected exactly one"),
    ("model=cvae_onehot", "model.num_classes=null: these data have no classes; expected data=mnist"),
    ("beta=free_bits posterior=low_rank model=vae", "beta=free_bits: needs a posterior whose KL is a sum"),
    ("model=cvae_onehot data=mnist model.num_classes=3", "model.num_classes=3: expected the data's 10"),
    ("likelihood=speckle data.target=clean", "data.target=clean: likelihood=speckle is one of noisy images"),
    (
        "stages=[[32,1]] model=vae model.latent_dim=8",
        "stages: the weights of this model depend on the image size (posterior.",
    ),
    ("freeze=[encoder.stage]", "freeze=encoder.stage: no such module; did you mean encoder.stages?"),
    ("experiment=denoising_skip likelihood=gaussian likelihood.activation=none", "likelihood.activation=none: a skip"),
    ("posterior=low_rank posterior.rank=999999", "posterior.rank=999999: expected less than the 256 latent values"),
    (
        "model=cbam_ae data.image_size=24 model.latent_channels=8",
        "data.image_size=24: model.decoder.strides enlarge a latent map",
    ),
]
"""Values that are valid individually but not together, which only building model and data reveals."""


@pytest.fixture
def mistakes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SAAAE_DATA_DIR", raising=False)
    register_resolvers()

    def found(line, command=TRAIN, multirun=False):
        return check_command_line(command, Search(CONF), line.split(), multirun)[1]

    return found


@pytest.mark.parametrize(("line", "answer"), MISTAKES, ids=[line for line, _ in MISTAKES])
def test_a_usage_error_is_reported_in_one_line(mistakes, tmp_path, line, answer):
    found = mistakes(line)
    assert len(found) == 1, found
    assert found[0].startswith(answer), found[0]
    assert "\n" not in found[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("", "run: missing"),
        ("run=outputs/nowhere", "outputs/nowhere: no such run folder"),
        ("checkpoint=nowhere.ckpt", "nowhere.ckpt: no such checkpoint"),
        ("runn=x", "runn: no such key; did you mean run?"),
    ],
)
def test_usage_errors_of_evaluate(mistakes, line, answer):
    assert mistakes(line, EVALUATE)[0].startswith(answer)


def test_a_path_that_is_not_utf_8_is_reported(mistakes):
    (line,) = mistakes(f"data=folder data.root='{chr(0xDCFF)}'")
    assert line.endswith("expected text in UTF-8")


def test_several_loggers_and_repeated_equal_overrides_are_valid(mistakes):
    assert mistakes("logger=[tensorboard,csv] model=vae model=vae seed=1 seed=2") == []


def test_an_error_in_a_large_grid_is_found_without_composing_it(mistakes, capsys, monkeypatch):
    from saaae.cli import dry_run

    composed = []
    real = dry_run.compose
    monkeypatch.setattr(dry_run, "compose", lambda *a, **k: composed.append(a) or real(*a, **k))
    (line,) = mistakes("seed=range(0,100000) model=nope", multirun=True)
    assert line.startswith("model=nope: no such option")
    assert len(composed) <= 2
    assert capsys.readouterr().err == "checking 100000 jobs\n"
    assert mistakes("seed=0,1,2 model=vae,saaae beta.value=1,2,-3", multirun=True) == [
        "beta.value=-3: expected greater than or equal to 0"
    ]
    assert len(composed) <= 2 + 7
    assert mistakes("model=vae seed=0,1 beta.value=1,2", multirun=True) == []


@pytest.mark.parametrize(("line", "answer"), CLASHES, ids=[line for line, _ in CLASHES])
def test_incompatible_values_are_reported_before_data_are_read(line, answer, compose_config):
    (error,) = dry_build([(compose_config(*shlex.split(line)), [])])
    assert error.startswith(answer), error


def test_a_clash_of_two_values_is_found_among_all_combinations(mistakes):
    line = "likelihood=gaussian,speckle data.target=noisy,clean"
    jobs, errors = check_command_line(TRAIN, Search(CONF), line.split(), True)
    assert errors == []
    (error,) = dry_build(jobs.configs)
    assert error.startswith("data.target=clean: likelihood=speckle is one of noisy images")


def test_a_user_config_folder_is_searched_for_options(tmp_path, mistakes):
    own = tmp_path / "own options"
    (own / "model").mkdir(parents=True)
    (own / "model" / "mine.yaml").write_text((CONF / "model" / "vae.yaml").read_text())
    search, quoted = Search(CONF, str(own)), f"hydra.searchpath=['file://{own}']"
    assert check_command_line(TRAIN, search, ["model=mine"], False)[1] == []
    assert check_command_line(TRAIN, search, ["model=mine,vae", "seed=0,1"], True)[1] == []
    assert check_command_line(TRAIN, Search(CONF), ["model=mine", quoted], False)[1] == []
    for arguments, place in ((["model=mien"], search), (["model=mien", quoted], Search(CONF))):
        (line,) = check_command_line(TRAIN, place, arguments, False)[1]
        assert "mine" in line.partition("expected one of")[2]
    (line,) = check_command_line(TRAIN, Search(CONF, "nowhere"), [], False)[1]
    assert line == "--config-dir=nowhere: no such folder"


def test_an_error_shared_by_several_jobs_is_reported_once(compose_config):
    jobs = [["model=vae"], *(["posterior=low_rank", "posterior.rank=999999", f"seed={seed}"] for seed in (0, 1))]
    (rank,) = dry_build([(compose_config(*job), job) for job in jobs])
    assert rank.startswith("posterior.rank=999999: expected less than")


@pytest.mark.parametrize(
    "name", ["plain", "a b", "a=b,c=d", "空 x", "it's", 'a"b', "$HOME", "back\\slash", "tail\\", "(x)", "a'b\\'c", "!x"]
)
def test_printed_paths_are_quoted_for_the_shell_and_hydra(name):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from saaae.config.overrides import quoted

    (word,) = shlex.split(f"run={quoted(Path('outputs') / name)}")
    (override,) = OverridesParser.create().parse_overrides([word])
    assert override.value() == f"outputs/{name}"


def test_overrides_can_be_before_and_after_a_flag():
    from saaae.cli.main import OPTIONS_WITH_VALUE
    from saaae.config.overrides import positionals_last

    words = ["name=v", "-m", "--config-dir", "a=b", "seed=0,1", "--cfg", "job", "+x=1"]
    expected = ["-m", "--config-dir", "a=b", "--cfg", "job", "name=v", "seed=0,1", "+x=1"]
    assert positionals_last(words, OPTIONS_WITH_VALUE) == expected


def test_an_interruption_during_imports_is_reported_in_one_line(tmp_path):
    code = (
        "import os, runpy, signal, sys, builtins; real = builtins.__import__\n"
        "def load(name, *rest):\n"
        "    if name == 'hydra': os.kill(os.getpid(), signal.SIGINT)\n"
        "    return real(name, *rest)\n"
        "builtins.__import__ = load; sys.argv = ['train.py']\n"
        f"runpy.run_path({str(ROOT / 'train.py')!r}, run_name='__main__')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (result.returncode, result.stderr) == (130, "interrupted\n")


def test_two_errors_are_reported_in_two_lines(mistakes):
    assert len(mistakes("beta.value=-1 data.looks=0")) == 2


def test_all_jobs_of_a_grid_are_checked_before_the_first_starts(mistakes):
    assert mistakes("model=vae,saaae beta.value=1,-1", multirun=True) == [
        "beta.value=-1: expected greater than or equal to 0"
    ]
    assert mistakes("model=vae,saaae seed=range(0,3)", multirun=True) == []


@pytest.mark.parametrize(
    "overrides", [[], ["data=mnist", "model=vae"], ["model.latent_dim=16"], ["seed=3", "beta=linear"]]
)
def test_valid_command_lines_pass(mistakes, overrides):
    assert mistakes(" ".join(overrides)) == []


def test_the_process_exits_with_2_without_a_stack_trace_or_a_folder(tmp_path):
    result = subprocess.run(
        [sys.executable, ROOT / "train.py", "modle=vae"], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert result.returncode == 2
    assert result.stderr == "error: modle: no such key; did you mean model?\n"
    assert not list(tmp_path.iterdir())


def test_only_training_accepts_multirun(tmp_path):
    command = [sys.executable, ROOT / "evaluate.py", "-m", "run=a,b"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert result.returncode == 2
    assert result.stderr == "error: --multirun (-m): is for train.py; expected one command for each\n"


def test_help_names_every_group(tmp_path):
    result = subprocess.run(
        [sys.executable, ROOT / "train.py", "--help"], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    for group in ("model", "data", "posterior", "likelihood", "beta", "optimizer", "accelerator"):
        assert re.search(rf"^{group}: ", result.stdout, re.M), group


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("name=a,b", "name=a,b: a sweep has one name"),
        ("optimizer.lr=interval(1e-4,1e-2)", "optimizer.lr=interval(1e-4,1e-2): a grid has no intervals"),
        ("hydra/sweeper=optuna optimizer.lr=interval(-1,1)", "optimizer.lr=-1.0: expected greater than 0"),
        ("hydra/sweeper=optuna model=choice(vae,saaee)", "model=saaee: no such option; expected one of"),
        (
            "hydra/sweeper=optuna hydra.sweeper.trials=3",
            "hydra.sweeper.trials: no such key; did you mean hydra.sweeper.",
        ),
        (
            "hydra/launcher=parallel hydra.launcher.n_job=3",
            "hydra.launcher.n_job: no such key; did you mean hydra.launch",
        ),
        ("hydra/sweeper=optun", "hydra/sweeper=optun: expected one of basic, optuna; did you mean optuna?"),
        ("hydra/launcher=slurm accelerator=cpu,gpu", "accelerator=cpu,gpu: the jobs of a SLURM array get the same"),
    ],
)
def test_usage_errors_in_sweeps(mistakes, line, answer):
    (found,) = mistakes(line, multirun=True)
    assert found.startswith(answer)


def test_a_missing_launcher_or_sweeper_is_reported_with_its_extra(mistakes, monkeypatch):
    monkeypatch.setitem(LAUNCHERS_AND_SWEEPERS["hydra/launcher"], "gpus", ("hydra_plugins.nowhere", "gpus"))
    monkeypatch.setitem(LAUNCHERS_AND_SWEEPERS["hydra/sweeper"], "optuna", ("nowhere.at_all", "optuna"))
    for choice, extra in (("hydra/launcher=gpus", "gpus"), ("hydra/sweeper=optuna", "optuna")):
        (found,) = mistakes(choice, multirun=True)
        assert found == f"{choice}: not installed; pip install -e '.[{extra}]', or uv run --extra {extra}"


def test_every_launcher_and_sweeper_has_an_extra_and_our_files_are_listed():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for group, options in LAUNCHERS_AND_SWEEPERS.items():
        assert {extra for _, extra in options.values()} - {""} <= set(extras)
        assert {path.stem for path in (CONF / group).glob("*.yaml")} <= set(options)


def test_existing_paths_with_an_equals_sign_are_quoted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "seed=0").mkdir()
    long = f"resume={'a=' * 300}"
    assert quote_paths(["resume=seed=0", "name=seed=0", "run=seed=1", long]) == [
        "resume='seed=0'", "name=seed=0", "run=seed=1", long,
    ]  # fmt: skip
