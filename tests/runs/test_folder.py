import json
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from saaae.atomic import write_json
from saaae.config.resolvers import job_folder, run_folder, stamp
from saaae.config.settings import config_hash, marked, settings_of
from saaae.config.validation import check_stored_config
from saaae.errors import UserError, nearest
from saaae.ranges import FOLDER, LENGTH, RUNTIME, TARGET
from saaae.runs.folder import RunFolder
from saaae.runs.run import absolute_path, factor_of_run
from saaae.runs.status import locked, recorded
from saaae.training.distributed import rank
from tests.conftest import ROOT


def test_a_run_folder_has_the_given_name_or_a_new_one():
    assert run_folder("digits", None, "vae-mnist") == "outputs/digits"
    assert run_folder(None, "outputs/old", "vae-mnist") == "outputs/old"
    assert run_folder(None, None, "vae-mnist") == f"outputs/vae-mnist/{stamp()}"


def test_adding_a_value_to_a_sweep_does_not_rename_other_jobs():
    told = ["model=vae", "beta.value=1", "data=mnist", "name=s"]
    folder = job_folder("beta.value=1,model=vae", told)
    assert folder.startswith("value=1,model=vae-")
    assert job_folder("beta.value=1,model=vae", [*told[:3], "name=other", "accelerator=gpu"]) == folder
    assert job_folder("beta.value=2,model=vae", ["model=vae", "beta.value=2", "data=mnist"]) != folder
    assert len(job_folder(",".join(f"key{i}={i}" for i in range(100)), told)) < 120
    assert "/" not in job_folder("data.root=/a/b", ["data.root=/a/b"])


def test_the_hash_excludes_settings_that_do_not_change_the_numbers():
    def digest(**changes):
        base = {"seed": 0, "name": "a", "data_dir": "x", "trainer": {"max_epochs": 3, "limit_train_batches": None},
                "data": {"num_workers": 0, "root": "${data_dir}/y"}, "accelerator": {"devices": 1}}  # fmt: skip
        cfg = OmegaConf.create(base)
        for key, value in changes.items():
            OmegaConf.update(cfg, key.replace("__", "."), value)
        return config_hash(cfg)

    same = digest()
    free = {"name": "b", "data_dir": "/z", "trainer__max_epochs": 9, "data__num_workers": 4, "accelerator__devices": 2}
    for key, value in free.items():
        assert digest(**{key: value}) == same, key
    later = {"init_from": None, "freeze": [], "ema": None, "stages": []}  # settings that runs of before did not have
    for key, value in later.items():
        assert digest(**{key: value}) == same, key
    changes = [("seed", 1), ("trainer__limit_train_batches", 3), ("data__root", "/other"), ("freeze", ["encoder"])]
    for key, value in changes:
        assert digest(**{key: value}) != same, key


def test_annotation_marks_identify_runtime_length_and_path_settings():
    assert set(marked(RUNTIME)) == {
        "name", "objective", "resume", "trust", "data_dir", "cache_dir", "accelerator", "on_nonfinite", "pictures",
        "keep_freed_memory", "trainer.enable_progress_bar", "trainer.enable_model_summary",
        "data.num_workers", "data.resident", "data.cache_gb", "data.allow_duplicates",
    }  # fmt: skip
    assert set(marked(LENGTH)) == {"trainer.max_epochs", "trainer.max_steps", "trainer.max_time"}
    assert set(marked(TARGET)) == {"data.target", "data.looks", "data.correlation", "data.clip", "data.gain"}
    paths = {"data_dir", "cache_dir", "init_from", "data.root", "data.test_root"}
    assert set(marked(FOLDER)) == paths
    assert set(marked(FOLDER, "saaae.data.sar.SARData")) == {*paths, "data.reference_root"}


def test_json_is_written_atomically_and_without_nan(tmp_path):
    write_json(tmp_path / "a" / "m.json", {"x": {"y": float("nan"), "z": 1.5}})
    assert json.loads((tmp_path / "a" / "m.json").read_text()) == {"x": {"y": None, "z": 1.5}}
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["m.json"]


def test_a_folder_that_is_not_a_run_is_reported(tmp_path):
    with pytest.raises(UserError, match="no such run folder"):
        RunFolder(tmp_path / "x").config()
    with pytest.raises(UserError, match="not a run folder"):
        RunFolder(tmp_path).config()


def test_other_settings_under_the_same_name_are_listed(tmp_path):
    folder = RunFolder(tmp_path)
    base = {"seed": 0, "name": "a", "freeze": [], "stages": [], "trainer": {"max_epochs": 3}, "model": {}, "data": {}}
    folder.write_record(OmegaConf.create(base), [], {})
    folder.check_same_config(OmegaConf.create(base | {"name": "b"}))
    with pytest.raises(UserError, match=r"seed: 0 there, 1 asked.*choose another name"):
        folder.check_same_config(OmegaConf.create(base | {"seed": 1}))
    with pytest.raises(UserError, match="extend it with resume="):
        folder.check_same_config(OmegaConf.create(base | {"trainer": {"max_epochs": 5}}))


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"- a\n- b\n", "expected a mapping"), (b"\xff\xfe\x00", "codec can't decode"), (b"{{{", ""),
     (b"", "it lacks model, data, trainer"), (b"hello", "it lacks model"), (b"data: {}\ntrainer: {}", "lacks model")],
    ids=["a list", "binary", "broken", "empty", "a word", "no model"],
)  # fmt: skip
def test_a_damaged_configuration_is_reported_with_the_reason(tmp_path, content, reason):
    folder = RunFolder(tmp_path)
    folder.record.parent.mkdir()
    folder.record.write_bytes(content)
    with pytest.raises(UserError, match=rf"\.hydra/config\.yaml: not readable \(.*{reason}"):
        folder.full_config()


def test_damaged_records_and_results_are_reported(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_record(OmegaConf.create({}), ["seed=1"], {"model": "vae"})
    assert (folder.overrides(), folder.tags()) == (["seed=1"], {"model": "vae"})
    for name, read in (("overrides.yaml", folder.overrides), ("told.yaml", folder.tags)):
        for content in ("{{{", "5"):
            folder.record.with_name(name).write_text(content)
            with pytest.raises(UserError, match=rf"{name}: not readable \("):
                read()
    splits = {"hash": "b", "sources": {}}
    for content in ('{"test": ', "[]", '{"train": {}}'):
        folder.metrics.write_text(content)
        with pytest.raises(UserError, match=r"metrics.json: not readable \("):
            folder.results()
        folder.splits.write_text(content)
        with pytest.raises(UserError, match=r"splits.json: not readable \("):
            folder.other_data(splits)


def test_a_starting_run_is_not_reported_as_a_folder_without_a_run(tmp_path):
    folder = RunFolder(tmp_path / "x")
    with locked(folder), pytest.raises(UserError, match="no checkpoint yet, the run is starting"):
        folder.config()


def test_a_uniform_factor_is_taken_from_a_finished_saaae_run(tmp_path):
    RunFolder(tmp_path).write_record(OmegaConf.create({}), [], {})
    write_json(tmp_path / "metrics.json", {"test": {"noise_power": 0.25, "noise_log_factor": -1.0}})
    assert factor_of_run(str(tmp_path), "power") == 0.5
    assert factor_of_run(str(tmp_path), "rate") == pytest.approx(0.36787944)
    write_json(tmp_path / "metrics.json", {"test": {"noise_power": 1.5, "noise_log_factor": 0.0}})
    with pytest.raises(UserError, match="not a suppression of noise"):
        factor_of_run(str(tmp_path), "power")
    write_json(tmp_path / "metrics.json", {"test": {"ssim": 0.5}})
    with pytest.raises(UserError, match="not a SAAAE run"):
        factor_of_run(str(tmp_path), "rate")


def test_the_nearest_name_is_offered():
    assert nearest("modle", ["model", "data"]) == "; did you mean model?"
    assert nearest("epochs", ["trainer.max_epochs", "seed"]) == "; did you mean trainer.max_epochs?"
    assert nearest("zzzzz", ["model", "data"]) == ""


def test_the_folder_of_caches_of_the_data_is_not_taken_for_an_option(compose_config):
    stored = compose_config("data=folder", "data.root=.", "data.cache_dir=cache", "model=vae")
    check_stored_config(stored)
    stored.data.corruption = "jpeg"
    with pytest.raises(UserError, match="data.corruption=jpeg: an option is chosen by its group"):
        check_stored_config(stored)


def test_a_key_can_contain_dots():
    windows = {"scene.jpg": [0, 0, 9, 9]}
    cfg = OmegaConf.create({"seed": 0, "data": {"enl_windows": windows}})
    assert settings_of(cfg) == {"seed": 0, "data.enl_windows.scene.jpg": [0, 0, 9, 9]}
    assert config_hash(cfg) != config_hash(OmegaConf.create({"seed": 0, "data": {"enl_windows": None}}))


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "LOCAL_RANK": "1"}, 1),  # a shell inside an allocation
        ({"SLURM_PROCID": "0", "LOCAL_RANK": "1"}, 1),
        ({"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "LOCAL_RANK": "1"}, 3),
        ({"RANK": "2", "SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, 2),
        ({}, 0),
    ],
)
def test_the_rank_is_that_of_whoever_started_the_process(monkeypatch, environment, expected):
    for name in ("RANK", "SLURM_PROCID", "SLURM_NTASKS", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert rank() == expected


def test_an_evaluation_that_is_writing_keeps_its_partial_files(tmp_path):
    for name in ("evaluation/own-best", "checkpoints"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / ".x.1.part").touch()
    with locked(RunFolder(tmp_path)):
        pass
    assert [path.parent.name for path in tmp_path.rglob("*.part")] == ["own-best"]


def test_the_status_of_a_finished_run_is_left_alone(tmp_path):
    folder = RunFolder(tmp_path)
    write_json(folder.metrics, {"test": {}})
    write_json(folder.status, {"state": "done", "since": "2026-01-01", "process": 1})
    before = folder.status.read_bytes()
    with recorded(folder):
        pass
    assert folder.status.read_bytes() == before


def test_paths_are_absolute_with_a_home_but_urls_are_not_paths(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert absolute_path("~/data") == str(tmp_path / "data")
    assert absolute_path("s3://bucket/x") == "s3://bucket/x"
    assert absolute_path("data") == str(Path.cwd() / "data")


def test_files_get_the_permissions_that_the_user_allows(tmp_path):
    code = (
        f"import os; os.umask(0o077); from pathlib import Path; from saaae.atomic import write_text; "
        f"write_text(Path({str(tmp_path / 'x')!r}), '')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o600
