"""Large images whose prediction was killed: rows of tiles that are done are kept until the image is whole."""

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from saaae.atomic import replacing, write_text
from saaae.errors import UserError
from saaae.inference.image_files import ImageFile
from saaae.inference.model import TrainedModel

LARGE = 2**24
"""Least number of pixels of an image whose finished rows are kept; a smaller one is done again."""

KEY = "key.json"


def folder_of(restored: Path) -> Path:
    """Where the finished rows of tiles of an image wait, given the file of its restored image."""
    return restored.with_name(f".{restored.name}.unfinished")


class FinishedTiles:
    """Arrays of the rows of tiles of one image, by number.

    Args:
        folder: Where they are; None keeps nothing.

    Attributes:
        reused: Number of rows that were there already.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder, self.reused = folder, 0

    def load(self, number: int) -> dict[str, np.ndarray] | None:
        """The arrays of a row of tiles by name; None if it is not finished, or damaged."""
        if self.folder is None:
            return None
        try:
            with np.load(self._path(number), allow_pickle=False) as arrays:
                found = dict(arrays)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            return None
        self.reused += 1
        return found

    def save(self, number: int, arrays: dict[str, np.ndarray]) -> None:
        """Keeps the arrays of a row of tiles.

        Raises:
            OSError: If the folder cannot be written.
        """
        if self.folder is not None:
            with replacing(self._path(number)) as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]

    def _path(self, number: int) -> Path:
        assert self.folder is not None
        return self.folder / f"{number:05d}.npz"


@contextmanager
def finished_tiles(image: ImageFile, outputs: dict[str, Path], key: Callable[[], str]) -> Iterator[FinishedTiles]:
    """The rows of tiles of an image that an earlier process has finished; they are deleted when the image is whole.

    Args:
        image: The image.
        outputs: The files to be written, with `restored` among them.
        key: Gives what they depend on; those of another key are deleted.

    Raises:
        UserError: If another process is at work on the image, or the options do not fit it.
        OSError: If the folder of the results cannot be written.
    """
    if image.height * image.width < LARGE:
        yield FinishedTiles()
        return
    from filelock import FileLock, Timeout

    restored, wanted = outputs["restored"], key()
    folder = folder_of(restored)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "lock", timeout=0):
            _clean(folder, outputs, wanted)
            yield FinishedTiles(folder)
            shutil.rmtree(folder)
    except Timeout:
        raise UserError(f"{restored}: another process is writing it") from None


def _clean(folder: Path, outputs: dict[str, Path], key: str) -> None:
    """Deletes rows of another key, and the temporary files of killed processes."""
    path = folder / KEY
    if not path.is_file() or path.read_text() != key:
        for file in folder.glob("*.npz"):
            file.unlink()
        write_text(path, key)
    for file in folder.glob(".*.part"):
        file.unlink()
    for output in outputs.values():
        for file in output.parent.iterdir():
            if file.name.startswith(f".{output.name}.") and file.name.endswith(".part"):
                file.unlink()


def key_of(model: TrainedModel, image: ImageFile, **settings: object) -> str:
    """What the tiles of an image depend on, as JSON: weights, configuration, the file's size and time, settings."""
    digest = hashlib.sha256(json.dumps(model.config, sort_keys=True, default=str).encode())
    for name, value in model.network.state_dict().items():
        values = value.detach().cpu().contiguous().view(-1).view(torch.uint8)  # numpy knows no bfloat16
        digest.update(name.encode() + values.numpy().tobytes())
    state = image.path.stat()
    content = {
        "model": digest.hexdigest(),
        "device": model.device.type,
        "image": [str(image.path.resolve()), state.st_size, state.st_mtime_ns],
        "version": version("saaae"),
    }
    return json.dumps(content | settings, sort_keys=True, default=str)
