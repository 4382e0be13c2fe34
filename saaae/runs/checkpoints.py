"""Reading checkpoints: nothing in them is executed, and a wrong file is named."""

import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from saaae.config.validation import complete_stored_config
from saaae.data.datamodule import ImageDataModule
from saaae.errors import UserError
from saaae.models.autoencoder import ImageAutoencoder
from saaae.models.lightning import model_weights
from saaae.runs.exported import GRAPHS
from saaae.runs.folder import RunFolder


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Content of a checkpoint of this project, on the CPU, its tensors still on disk.

    Raises:
        UserError: If the file is missing, damaged or foreign.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    try:
        checkpoint = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
        missing = {"config", "state_dict", "global_step", "validation"} - set(checkpoint)
    except Exception as error:  # torch raises half a dozen kinds
        objects = "weights" in str(error).lower() and "unsupported" in str(error).lower()
        if path.suffix in GRAPHS:
            raise UserError(f"{path}: a graph; expected a run folder, checkpoint or exported folder") from None
        reason = "it holds more than plain data" if objects else "damaged, cut short, or something else"
        raise UserError(f"{path}: not a readable checkpoint ({reason})") from None
    if missing:
        raise UserError(f"{path}: not a checkpoint of this project, it lacks {', '.join(sorted(missing))}")
    return checkpoint


def config_in(path: Path) -> DictConfig:
    """The configuration that a checkpoint carries.

    Raises:
        UserError: If the file is missing, damaged or foreign.
    """
    return complete_stored_config(OmegaConf.create(read_checkpoint(path)["config"]))


def load_weights(model: ImageAutoencoder, path: Path) -> None:
    """Loads the weights of a checkpoint.

    Raises:
        UserError: If the file is missing, damaged, foreign, or of another model.
    """
    load_state(model, model_weights(read_checkpoint(path)["state_dict"]), path)


def load_state(model: ImageAutoencoder, state: dict[str, Tensor], path: Path) -> None:
    """Loads weights by their names in the torch model.

    Args:
        model: The model.
        state: The weights.
        path: Where they come from, for the message.

    Raises:
        UserError: If they are of another model.
    """
    expected = model.state_dict()
    shapes, expected_shapes = ({key: value.shape for key, value in s.items()} for s in (state, expected))
    wrong = sorted(key for key in {*state, *expected} if shapes.get(key) != expected_shapes.get(key))
    if wrong:
        raise UserError(
            f"{path}: a checkpoint of another model ({len(wrong)} tensors differ, for instance {wrong[0]}); "
            "expected one made with the same model settings"
        )
    model.load_state_dict(state)


def read_intact(path: Path) -> dict[str, Any]:
    """Content of a checkpoint that has been read to its end: a damaged one may still open.

    Raises:
        UserError: If the file is damaged or foreign.
    """
    checkpoint = read_checkpoint(path)
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # zipfile raises several kinds
        raise UserError(f"{path}: damaged ({error})") from None
    if damaged:
        raise UserError(f"{path}: damaged ({damaged} does not have its checksum)")
    return checkpoint


def read_weights(path: Path) -> dict[str, Tensor]:
    """Weights by the torch model's own names, of a checkpoint or a safetensors file.

    Raises:
        UserError: If the file is damaged or foreign.
    """
    if path.suffix != ".safetensors":
        return model_weights(read_intact(path)["state_dict"])
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return model_weights(load_file(path))
    except (OSError, SafetensorError):
        raise UserError(f"{path}: not a readable safetensors file (damaged, cut short, or something else)") from None


class Start(NamedTuple):
    """Where a run begins: from nothing, or from its newest intact checkpoint.

    Attributes:
        checkpoint: The checkpoint to resume from; None for a new run.
        step: Optimizer step that it holds.
        validation: Validation metrics of the best checkpoint so far; empty if there is none.
        damaged: What is wrong with files that had to be passed over.
        best_is_damaged: Whether best.ckpt is one of them.
        content: Of the checkpoint, weights and optimizer left out; empty for a new run.
    """

    checkpoint: Path | None
    step: int
    validation: dict[str, float]
    damaged: list[str]
    best_is_damaged: bool
    content: dict[str, Any]


def start_of(folder: RunFolder, model: ImageAutoencoder) -> Start:
    """Where a run begins, given the checkpoints in its folder.

    Raises:
        UserError: If none is intact, if they are of another model (Lightning, which loads it, would not name it), or
            if there is none to continue a run that is past its first epoch: training again would replace its results.
    """
    damaged: list[str] = []
    validation: dict[str, float] = {}
    epoch = 0
    if folder.best.is_file():
        try:
            best = read_intact(folder.best)
            validation, epoch = best["validation"], best.get("epoch", 0)
        except UserError as error:
            damaged.append(str(error))
    lost: list[str] = []
    for path in (folder.last, folder.previous):
        if not path.is_file():
            continue
        try:
            content = read_intact(path)
        except UserError as error:
            lost.append(str(error))
            continue
        load_weights(model, path)
        large = ("state_dict", "training_weights", "optimizer_states")
        small = {key: value for key, value in content.items() if key not in large}
        return Start(path, int(content["global_step"]), validation, lost + damaged, bool(damaged), small)
    if lost:
        raise UserError(f"{lost[0]}, and no older one is intact; remove {folder.path} to start over")
    if folder.metrics.is_file() or epoch >= 1:
        evaluation = "evaluate it, " if folder.best.is_file() else ""
        raise UserError(
            f"{folder.path}: its checkpoints/last.ckpt is missing, so the run cannot be continued; "
            f"nothing was changed; {evaluation}choose another name, or delete the folder to start over"
        )
    return Start(None, 0, {}, damaged, bool(damaged), {})


def data_state(start: Start, folder: RunFolder, data: ImageDataModule) -> dict[str, Any]:
    """State of the data module in the checkpoint that a run continues from.

    Raises:
        UserError: If the checkpoint was copied from a run on other data. Where the folder's own splits.json tells of
            changed data, the comparison with it names the file that changed.
    """
    name, split_hash = type(data).__qualname__, start.content.get("run", {}).get("split_hash")
    copied = not folder.splits.is_file() and split_hash not in (None, data.split_hash())
    if name not in start.content or copied:
        raise UserError(
            f"{start.checkpoint}: a checkpoint of a run on other data, which cannot be continued on these; "
            "expected one of a run with the same data settings"
        )
    return start.content[name]
