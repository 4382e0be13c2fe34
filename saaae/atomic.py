"""Files that appear all at once: a kill or a full disk leaves the old one as it was."""

import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from saaae.errors import reading

UMASK = os.umask(0)
"""Permissions that the user withholds from new files; it can only be read by setting it."""
os.umask(UMASK)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A binary file to write beside `path`, which it replaces, synced, at the end; an exception leaves no trace of it.

    What a killed process leaves is named `.*.part`.

    Raises:
        OSError: If the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(partial, 0o666 & ~UMASK)  # mkstemp's files are the owner's only
        os.replace(partial, path)
    except BaseException as error:
        Path(partial).unlink(missing_ok=True)
        if isinstance(error, OSError) and not error.filename:  # of a full disk: writing knows no name
            error.filename = str(path)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Makes the names in a folder last through a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Writes a file so that a reader sees the old or the new text, never a part."""
    with replacing(path) as file:
        file.write(text.encode())


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes JSON atomically; a number that is not finite becomes null."""
    write_text(path, json.dumps(_finite(content), indent=2, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_finite(child) for child in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path, *keys: str) -> dict[str, Any]:
    """Content of a JSON file of a run folder.

    Args:
        path: The file.
        *keys: Entries that it must have.

    Raises:
        UserError: If the file is damaged or lacks one of them.
    """
    with reading(path):
        content = json.loads(path.read_text())
        check_entries(content, keys)
    return content


def read_json_or_empty(path: Path) -> dict[str, Any]:
    """Content of a JSON file; empty if it is missing or damaged."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def check_entries(content: Any, keys: Iterable[str]) -> None:
    """Raises ValueError if `content` is not a mapping with these keys."""
    if not isinstance(content, Mapping):
        raise ValueError("expected a mapping")
    if missing := [key for key in keys if key not in content]:
        raise ValueError(f"it lacks {', '.join(missing)}")
