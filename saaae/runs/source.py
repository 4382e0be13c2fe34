"""The file whose weights a run starts from (`init_from`). Imports no torch."""

from pathlib import Path

from saaae.errors import UserError, nearest
from saaae.runs.exported import WEIGHTS
from saaae.runs.folder import RunFolder, known_runs


def weights_file(source: str) -> Path:
    """The file that a source of weights means.

    Args:
        source: A run folder (its best.ckpt, or else its last.ckpt), a folder with `model.safetensors`, or one of those
            files itself.

    Raises:
        UserError: If there is no such file, naming the nearest run folder.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if not path.is_dir():
        hint = nearest(str(path), known_runs())
        raise UserError(f"init_from={source}: no such run folder, checkpoint or exported model{hint}")
    folder = RunFolder(path)
    for file in (folder.best, folder.last, path / WEIGHTS):
        if file.is_file():
            return file
    if folder.record.is_file() or folder.owner.is_file():
        raise UserError(f"init_from={source}: this run has no checkpoint yet; the first is written after an epoch")
    raise UserError(
        f"init_from={source}: neither a run folder nor an exported model: "
        f"it has no checkpoints/{folder.best.name} and no {WEIGHTS}"
    )
