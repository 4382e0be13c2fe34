"""Which checkpoint a run continues from, and when it must not restart."""

from types import SimpleNamespace

import pytest
import torch

from saaae.errors import UserError
from saaae.runs.checkpoints import Start, data_state, start_of
from saaae.runs.folder import RunFolder

CHECKPOINT = {"config": {}, "state_dict": {}, "global_step": 3, "validation": {"val/elbo": 1.0}}


@pytest.fixture
def best(tmp_path):
    """A run folder with a best.ckpt of a given epoch and no other checkpoint."""

    def written(epoch):
        folder = RunFolder(tmp_path / "run")
        folder.checkpoints.mkdir(parents=True, exist_ok=True)
        torch.save(CHECKPOINT | {"epoch": epoch}, folder.best)
        return folder

    return written


def test_a_run_killed_in_its_first_epoch_restarts(best):
    start = start_of(best(0), None)
    assert (start.checkpoint, start.validation) == (None, {})  # the first validation replaces best.ckpt


def test_a_run_past_its_first_epoch_never_restarts_without_its_last_checkpoint(best):
    with pytest.raises(UserError, match=r"last.ckpt is missing.*nothing was changed; evaluate it, choose another name"):
        start_of(best(1), None)


def test_a_finished_run_never_restarts_without_its_last_checkpoint(best):
    folder = best(0)
    folder.metrics.write_text("{}")
    with pytest.raises(UserError, match=r"run: its checkpoints/last.ckpt is missing, so the run cannot be continued"):
        start_of(folder, None)
    folder.best.unlink()
    with pytest.raises(UserError, match="nothing was changed; choose another name, or delete the folder"):
        start_of(folder, None)


class FolderData(SimpleNamespace):
    """A data module that stores state in checkpoints."""

    def split_hash(self):
        return "here"


@pytest.mark.parametrize("content", [{"MNISTData": 1}, {"FolderData": 1, "run": {"split_hash": "elsewhere"}}])
def test_a_checkpoint_copied_from_a_run_on_other_data_is_refused(tmp_path, content):
    start = Start(tmp_path / "last.ckpt", 3, {}, [], False, content)
    with pytest.raises(UserError, match="last.ckpt: a checkpoint of a run on other data, which cannot be continued"):
        data_state(start, RunFolder(tmp_path), FolderData())


@pytest.mark.parametrize("run", [{}, {"run": {"split_hash": "here"}}], ids=["of an older version", "of now"])
def test_a_checkpoint_of_a_run_on_the_same_data_is_continued(tmp_path, run):
    start = Start(tmp_path / "last.ckpt", 3, {}, [], False, {"FolderData": {"epoch": 1}} | run)
    assert data_state(start, RunFolder(tmp_path), FolderData()) == {"epoch": 1}
