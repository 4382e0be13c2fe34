"""Where shards are: in a folder, or at a URL from which fsspec downloads them."""

import contextlib
import os
import random
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

import fsspec
from filelock import FileLock
from platformdirs import user_cache_path

from saaae.data.cache import content_digest
from saaae.data.shards import INDEX, WRITE_SHARDS, Index, Shard
from saaae.errors import UserError


class FolderStore:
    """Shards in a folder, read in place.

    Args:
        root: The folder.
    """

    def __init__(self, root: str) -> None:
        self.root = Path(root)
        self._checked: set[Shard] = set()

    def index(self) -> Index:
        """Reads the index.

        Raises:
            UserError: If the folder is missing or has no valid index.
        """
        path = self.root / INDEX
        if not path.is_file():
            problem = f"no {INDEX} in it" if self.root.is_dir() else "no such folder"
            raise UserError(f"data.root={self.root}: {problem}; expected a folder of shards or a URL ({WRITE_SHARDS})")
        try:
            return Index.from_json(path.read_bytes(), str(path))
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from None

    def local(self, shard: Shard) -> Path:
        """The file of a shard, whose content is checked once.

        Raises:
            UserError: If it is missing or damaged.
        """
        path = self.root / shard.name
        if shard not in self._checked or not path.is_file():
            if damage := damage_of(path, shard):
                raise UserError(f"{path}: damaged ({damage}); restore it, or {WRITE_SHARDS} again")
            self._checked.add(shard)
        return path

    def prepare(self, shards: list[Shard]) -> None:
        """Does nothing: the shards are local."""


class RemoteStore:
    """Shards at a URL, downloaded when they are needed; above a limit, those are deleted whose use is longest ago.

    Several processes share the folder of downloads; one of them downloads or deletes at a time. A file that is deleted
    while another process reads it stays readable there.

    Args:
        url: URL of the folder of shards.
        cache_dir: Folder of all caches; None is the user's cache folder.
        cache_gb: Limit of the downloads of this set, in 10^9 bytes.
    """

    def __init__(self, url: str, cache_dir: str | None, cache_gb: float) -> None:
        self.url, self.limit = url.rstrip("/"), int(cache_gb * 1e9)
        self.base = Path(cache_dir).expanduser() if cache_dir else user_cache_path("saaae")
        self.folder = self.base / f"shards-{content_digest(self.url.encode())}"
        self._checked: set[Shard] = set()
        self._prepared: list[Shard] = []
        self._requests: SimpleQueue[list[Shard]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_requests": None}

    def index(self) -> Index:
        """Downloads the index.

        Raises:
            UserError: If it cannot be downloaded or is invalid, or the cache cannot be written.
        """
        with self._locked():
            return Index.from_json(self._fetch(INDEX), f"{self.url}/{INDEX}")

    def local(self, shard: Shard) -> Path:
        """The file of a shard, downloaded if it is not in the cache.

        Raises:
            UserError: If it cannot be downloaded, or is damaged at its source.
        """
        self._ensure(shard)
        return self._path(shard)

    def _ensure(self, shard: Shard, wanted: Callable[[], bool] = lambda: True) -> None:
        path = self._path(shard)
        if shard in self._checked and path.is_file():
            return
        if damage_of(path, shard):
            with self._locked():
                if not wanted():  # while waiting, others may have downloaded, used and deleted it
                    return
                if damage_of(path, shard):
                    self._download(shard, path)
        self._checked.add(shard)

    def prepare(self, shards: list[Shard]) -> None:
        """Downloads shards in the background, in place of those of the last call that are still missing.

        Those of both calls are the last that are deleted: workers may be a window behind. An error is not reported
        here: it occurs again in `local` when the shard is read.
        """
        for shard in [*self._prepared, *shards]:
            with contextlib.suppress(FileNotFoundError):
                os.utime(self._path(shard))
        self._prepared = shards
        if self._requests is None:
            self._requests = SimpleQueue()
            Thread(target=self._work, args=(self._requests,), daemon=True).start()
        self._requests.put(shards)

    def _work(self, requests: "SimpleQueue[list[Shard]]") -> None:
        while True:
            for shard in requests.get():
                if requests.empty():  # otherwise the next request is for the current window
                    with contextlib.suppress(Exception):
                        self._ensure(shard, requests.empty)

    def _path(self, shard: Shard) -> Path:
        return self.folder / f"{shard.digest}.npy"

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / ".lock", poll_interval=0.01):
                yield
        except OSError as error:
            raise UserError(f"cache_dir={self.base}: cannot be used ({error.strerror or error})") from None

    def _download(self, shard: Shard, path: Path) -> None:
        """Downloads a shard, and deletes those whose use is longest ago until it fits."""
        content = self._fetch(shard.name)
        if damage := shard.damage(content):
            raise UserError(f"{self.url}/{shard.name}: damaged ({damage}); upload it again, or {WRITE_SHARDS} again")
        path.unlink(missing_ok=True)
        kept = sorted(self.folder.glob("*.npy"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        total = sum(path.stat().st_size for path in kept) + len(content)
        while kept and total > self.limit:
            total -= kept[-1].stat().st_size
            kept.pop().unlink()
        part = self.folder / "part"  # always the same: a killed process leaves at most one
        part.write_bytes(content)
        part.replace(path)

    def _fetch(self, name: str) -> bytes:
        state = random.getstate()  # clients draw the pauses between attempts from the random numbers of the run
        try:
            filesystem, path = fsspec.url_to_fs(f"{self.url}/{name}")  # a new one after a fork
            return filesystem.cat_file(path)
        except Exception as error:  # of any client library
            reason = textwrap.shorten(str(error), 200) or type(error).__name__
            if isinstance(error, ImportError) and self.url.startswith("s3"):
                reason += ": pip install 'saaae[stream]'"
            raise UserError(
                f"data.root={self.url}: {name} cannot be downloaded ({reason}); expected the URL of a folder of shards"
            ) from None
        finally:
            random.setstate(state)


def damage_of(path: Path, shard: Shard) -> str | None:
    """Why a file is not the shard; None if it is."""
    try:
        return shard.damage(path.read_bytes())
    except OSError as error:
        return f"cannot be read: {error.strerror}"
