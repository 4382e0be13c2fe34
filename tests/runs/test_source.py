"""Which file weights are taken from."""

import pytest
from omegaconf import OmegaConf

from saaae.errors import UserError
from saaae.runs.exported import WEIGHTS
from saaae.runs.folder import RunFolder
from saaae.runs.source import weights_file


def test_a_run_gives_its_best_checkpoint_or_else_its_last(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_record(OmegaConf.create({}), [], {})
    with pytest.raises(UserError, match="this run has no checkpoint yet; the first is written after an epoch"):
        weights_file(str(tmp_path))
    folder.checkpoints.mkdir()
    for file in (folder.last, folder.best):
        file.touch()
        assert weights_file(str(tmp_path)) == file
    assert weights_file(str(folder.last)) == folder.last


def test_an_exported_model_is_its_file_of_tensors(tmp_path):
    (tmp_path / WEIGHTS).touch()
    assert weights_file(str(tmp_path)) == tmp_path / WEIGHTS


def test_of_a_source_that_does_not_exist_the_nearest_run_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    RunFolder("outputs/first").write_record(OmegaConf.create({}), [], {})
    with pytest.raises(UserError, match="init_from=outputs/fisrt: no such run .*; did you mean outputs/first?"):
        weights_file("outputs/fisrt")
    with pytest.raises(UserError, match="init_from=outputs: neither a run folder nor an exported model"):
        weights_file("outputs")
