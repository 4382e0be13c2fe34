"""Where shards are: in a folder, or in an object store from which the engine (litdata) downloads them."""

import atexit
import contextlib
import os
import random
import textwrap
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any

from filelock import FileLock
from platformdirs import user_cache_path

from saaae.data.cache import content_digest
from saaae.data.shards import INDEX, INSTALL, WRITE_THEM, Index, Shard, fault_of
from saaae.errors import UserError, disk_error

SCHEMES = ("s3://", "gs://", "azure://", "hf://", "local:")
"""What a URL that the engine can read begins with; `local:` is a folder treated like an object store."""
ATTEMPTS = 6
"""How often a download is begun before it counts as failed: about half a minute in all."""
PATIENCE = 10.0
"""Seconds that the end of the program waits for a download in the background."""


class FolderStore:
    """Shards in a folder, read where they are.

    Args:
        root: The folder.
    """

    def __init__(self, root: str) -> None:
        self.root = Path(root)
        self._sound: set[str] = set()

    def index(self) -> Index:
        """What the shards hold.

        Raises:
            UserError: If the folder is missing or not one of shards.
        """
        if not self.root.is_dir():
            raise UserError(f"data.root={self.root}: no such folder; expected one of shards ({WRITE_THEM}), or a URL")
        path = self.root / INDEX
        if not path.is_file():
            raise UserError(f"data.root={self.root}: no {INDEX} in it; expected a folder of shards ({WRITE_THEM})")
        return Index.from_json(_read(path), str(path))

    def local(self, shard: Shard) -> Path:
        """A shard's file; its content is checked once.

        Raises:
            UserError: If it is missing or damaged.
        """
        path = self.root / shard.name
        if shard.name not in self._sound or not path.is_file():
            try:
                fault = fault_of(path, shard)
            except OSError as error:
                fault = f"cannot be read: {error.strerror}"
            if fault:
                raise UserError(f"{path}: damaged ({fault}); put it back, or write the shards again")
            self._sound.add(shard.name)
        return path

    def prepare(self, shards: list[Shard]) -> None:
        """Does nothing: the shards are local."""


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


class RemoteStore:
    """Shards in an object store, downloaded when needed; beyond a limit, the longest unused ones are deleted.

    Several processes share the folder of downloads. One of them downloads or deletes at a time. A file that is deleted
    while another process reads it stays readable there.

    Args:
        url: Where `index.json` is.
        cache_dir: Folder of all caches; None is the user's cache folder.
        cache_gb: Limit of what is kept of this set, in 10^9 bytes.

    Raises:
        UserError: If litdata is not installed.
    """

    def __init__(self, url: str, cache_dir: str | None, cache_gb: float) -> None:
        self.url, self.limit = url.rstrip("/"), int(cache_gb * 1e9)
        self.base = Path(cache_dir).expanduser() if cache_dir else user_cache_path("saaae")
        self.folder = self.base / f"shards-{content_digest(self.url.encode())}"
        self._sound: set[str] = set()
        self._engine: tuple[int, Any] = (0, None)
        self._background: Thread | None = None
        self._ended = Event()
        try:
            from litdata.streaming.downloader import get_downloader
        except ImportError:
            raise UserError(f"data.root={url}: needs litdata, which is not installed; {INSTALL}") from None
        self._make_engine = get_downloader

    def index(self) -> Index:
        """The index of the shards, fetched again.

        Raises:
            UserError: If it cannot be reached, is not that of shards, or the cache is too small for one of them.
        """
        path = self.folder / INDEX
        with self._locked():
            path.unlink(missing_ok=True)
            self._download(INDEX, path)
            return Index.from_json(_read(path), f"{self.url}/{INDEX}")

    def local(self, shard: Shard) -> Path:
        """A shard's file, downloaded if it is not here.

        Raises:
            UserError: If it cannot be, or what arrives is damaged.
        """
        path = self.folder / shard.name
        if shard.name not in self._sound or not path.is_file():
            if self._lacks(shard):
                with self._locked():
                    if self._lacks(shard):  # another process may have been faster
                        self._fetch(shard, path)
            self._sound.add(shard.name)
        with contextlib.suppress(FileNotFoundError):
            os.utime(path)  # the time of its last use
        return path

    def prepare(self, shards: list[Shard]) -> None:
        """Downloads shards in the background, after those of the current window, which they must not evict.

        What goes wrong there goes wrong again for the one who needs them.
        """
        before = self._background

        def fetch() -> None:
            if before:
                before.join()
            with contextlib.suppress(Exception):
                for shard in shards:
                    if not self._ended.is_set():
                        self.local(shard)

        if any(not (self.folder / shard.name).is_file() for shard in shards):
            self._background = Thread(target=fetch, daemon=True)
            self._background.start()
            if not before:
                atexit.register(self.close)

    def close(self) -> None:
        """Ends what is done in the background: Python must not end with a thread inside the engine."""
        self._ended.set()
        if self._background:
            self._background.join(PATIENCE)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / ".lock")
            lock.acquire()
        except OSError as error:
            raise UserError(f"cache_dir={self.base}: cannot be used ({error.strerror or error})") from None
        try:
            yield
        finally:
            lock.release()

    def _lacks(self, shard: Shard) -> bool:
        try:
            return fault_of(self.folder / shard.name, shard) is not None
        except OSError:
            return True

    def _fetch(self, shard: Shard, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._make_room(shard.size)
        self._download(shard.name, path)
        if fault := fault_of(path, shard):
            path.unlink()
            raise UserError(f"{self.url}/{shard.name}: damaged ({fault}); upload it again, or write the shards again")

    def _make_room(self, size: int) -> None:
        """Deletes what killed downloads have left, and shards until another one fits, the longest unused first."""
        files = [path for path in self.folder.glob("*/*") if path.is_file()]
        for path in files:
            if path.suffix != ".bin":
                path.unlink()
        kept = sorted((path for path in files if path.suffix == ".bin"), key=lambda path: path.stat().st_mtime_ns)
        total = sum(path.stat().st_size for path in kept)
        for path in kept:
            if total + size <= self.limit:
                return
            total -= path.stat().st_size
            path.unlink()

    def _options(self) -> dict[str, Any]:
        """For the engine's client: without them it would try a thousand times to reach a host that is not there."""
        if not self.url.startswith("s3://"):
            return {}
        from botocore.config import Config

        return {"config": Config(retries={"max_attempts": ATTEMPTS, "mode": "standard"})}

    def _download(self, name: str, path: Path) -> None:
        state = random.getstate()  # clients draw the names of their files and their patience from the run's generator
        try:
            if self._engine[0] != os.getpid():  # connections do not survive a fork
                self._engine = os.getpid(), self._make_engine(self.url, str(self.folder), [], self._options())
            path.parent.mkdir(exist_ok=True)
            self._engine[1].download_file(f"{self.url}/{name}", str(path))
            if not path.is_file():
                raise FileNotFoundError("nothing arrived")
        except Exception as error:  # those of a dozen libraries
            if disk_error(error):
                raise
            why = textwrap.shorten(str(error), 200) or type(error).__name__
            raise UserError(f"data.root={self.url}: {name} cannot be fetched ({why}); is the URL right?") from None
        finally:
            random.setstate(state)


Store = FolderStore | RemoteStore


def store_at(root: str, cache_dir: str | None, cache_gb: float) -> Store:
    """Where the shards are: a URL, or else a folder.

    Raises:
        UserError: If the URL is of a kind that the engine cannot read.
    """
    if root.startswith(SCHEMES):
        return RemoteStore(root, cache_dir, cache_gb)
    if "://" in root:
        raise UserError(f"data.root={root}: expected a folder, or a URL that begins with {', '.join(SCHEMES)}")
    return FolderStore(root)
