"""Decoded images on disk: written once, then memory-mapped by every run with the same files and settings."""

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock, Timeout
from platformdirs import user_cache_path
from torch import Tensor

from saaae.errors import UserError

FORMAT = 2
"""Part of every cache's key. Raise it when the code that reads images changes their pixels."""


def content_digest(data: bytes) -> str:
    """Short digest of a file's content."""
    return hashlib.blake2b(data, digest_size=12).hexdigest()


class Cached(NamedTuple):
    """Content of a cache.

    Attributes:
        arrays: By name, mapped from disk; writing to one changes this process's copy only.
        notes: Notes of the build, plain values.
    """

    arrays: dict[str, Tensor]
    notes: dict[str, Any]


class ArrayWriter:
    """Appends to named arrays, one flat file each, so that memory holds only one piece at a time.

    Args:
        folder: Where the files go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, Any] = {}
        self._layout: dict[str, dict[str, Any]] = {}

    def append(self, name: str, rows: Tensor) -> None:
        """Adds rows (n, ...) to an array; all rows of an array have one shape and type."""
        layout = {"dtype": str(rows.numpy().dtype), "shape": list(rows.shape[1:])}
        known = self._layout.setdefault(name, layout | {"rows": 0})
        assert {**layout, "rows": known["rows"]} == known, f"{name}: rows of {layout} after {known}"
        if name not in self._files:
            self._files[name] = (self.folder / f"{name}.bin").open("wb")
        self._files[name].write(rows.contiguous().numpy().data)
        known["rows"] += len(rows)

    def finish(self, notes: dict[str, Any]) -> None:
        """Closes the files and writes their index; then the folder can be read."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()
        with (self.folder / "index.json").open("w") as file:
            json.dump({"arrays": self._layout, "notes": notes}, file)
            file.flush()
            os.fsync(file.fileno())


class LayoutRecorder(ArrayWriter):
    """Keeps where images were cut from, and only the type and shape of all other arrays."""

    def __init__(self) -> None:
        self.parts: dict[str, list[Tensor]] = {"file": [], "start": []}
        self.rows: dict[str, Tensor] = {}

    def append(self, name: str, rows: Tensor) -> None:
        if name in self.parts:
            self.parts[name].append(rows)
        else:
            self.rows[name] = rows.new_zeros(()).expand(rows.shape[1:])

    def arrays(self) -> dict[str, Tensor]:
        """All arrays; those of which only the type and shape are kept are zeros that take no memory."""
        locations = {name: torch.cat(parts) if parts else torch.zeros(0) for name, parts in self.parts.items()}
        return locations | {name: row.expand(len(locations["file"]), *row.shape) for name, row in self.rows.items()}


def record_layout(key: Mapping[str, Any], build: Callable[[ArrayWriter], dict[str, Any]]) -> Cached:
    """What `cached` returns, without pixels."""
    recorder = LayoutRecorder()
    notes = build(recorder)
    return Cached(recorder.arrays(), notes)


def cached(
    cache_dir: str | None, name: str, key: Mapping[str, Any], build: Callable[[ArrayWriter], dict[str, Any]]
) -> Cached:
    """What `build` writes, from the cache if it was written before.

    A cache appears under its name all at once, so a killed build leaves nothing or all of it. Of two processes that
    want the same one, the second waits for the first.

    Args:
        cache_dir: Folder of all caches; None is the user's cache folder.
        name: First part of the cache's own name, for people.
        key: Everything that decides the content, plain values.
        build: Appends arrays to the writer and returns plain notes.

    Raises:
        UserError: If the folder cannot be written, or by `build`.
    """
    base = Path(cache_dir).expanduser() if cache_dir else user_cache_path("saaae")
    digest = hashlib.sha256(json.dumps({"format": FORMAT, **key}, sort_keys=True).encode()).hexdigest()[:20]
    folder = base / f"{name}-{digest}"
    try:
        found = _read(folder)
        if found is None:
            base.mkdir(parents=True, exist_ok=True)
            with FileLock(base / f"{folder.name}.lock"):
                if _read(folder) is None:
                    _build(folder, build)
            _remove_leftovers(base)
            found = _read(folder)
            assert found is not None
        return found
    except OSError as error:
        raise UserError(
            f"cache_dir={base}: cannot be used ({error.strerror or error}); expected a folder to write decoded images "
            "to, such as cache_dir=cache"
        ) from None


def _build(folder: Path, build: Callable[[ArrayWriter], dict[str, Any]]) -> None:
    """Builds in a temporary folder and moves it; only the holder of the lock touches either."""
    part = folder.with_name(folder.name + ".part")
    for leftover in (part, folder):
        shutil.rmtree(leftover, ignore_errors=True)
    part.mkdir()
    try:
        writer = ArrayWriter(part)
        writer.finish(build(writer))
        part.rename(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _remove_leftovers(base: Path) -> None:
    """Deletes the files of killed builds, whose lock is free."""
    for part in base.glob("*.part"):
        if not re.fullmatch(r".+-[0-9a-f]{20}\.part", part.name):  # the folder may be shared with others
            continue
        with contextlib.suppress(Timeout), FileLock(part.with_suffix(".lock"), timeout=0):
            shutil.rmtree(part, ignore_errors=True)


def _read(folder: Path) -> Cached | None:
    """Content of a cache; None where there is none or it is damaged."""
    try:
        index = json.loads((folder / "index.json").read_text())
        arrays = {name: _map(folder / f"{name}.bin", layout) for name, layout in index["arrays"].items()}
        return Cached(arrays, index["notes"])
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError):
        return None


def _map(path: Path, layout: Mapping[str, Any]) -> Tensor:
    """An array on disk; copy-on-write, because torch has no read-only tensors."""
    shape = (layout["rows"], *layout["shape"])
    if not layout["rows"]:
        return torch.from_numpy(np.empty(shape, layout["dtype"]))
    return torch.from_numpy(np.memmap(path, layout["dtype"], mode="c", shape=shape))
