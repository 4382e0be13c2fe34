"""Errors reported as one line by the CLI."""

import difflib
import errno
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class UserError(Exception):
    """A usage error: one line that names the key or file, what was expected and the nearest valid choice.

    The CLI prints the message without a stack trace and exits with status 2.
    """


class RunFailedError(Exception):
    """A run that ended without usable results; the CLI prints the message and exits with status 1."""


class Pruned(Exception):  # noqa: N818
    """A run that its study pruned: neither a failure nor a result."""


def user_error_in(error: BaseException | None) -> UserError | None:
    """The usage error behind an exception, through the wrappers of Hydra's instantiate."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__
    return error


DISK_ERRORS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG,
               errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP)  # fmt: skip


def disk_error(error: BaseException) -> str | None:
    """One line for what a full disk or a missing permission raises, naming the file; None for other errors."""
    if not isinstance(error, OSError) or error.errno not in DISK_ERRORS:
        return None
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)


def folder_error(error: OSError) -> str | None:
    """One line for what making a run folder raises: as `disk_error`, and where a file is in its place."""
    exists = isinstance(error, FileExistsError)
    return f"{error.filename}: exists and is not a folder" if exists else disk_error(error)


def nearest(name: str, choices: Iterable[str]) -> str:
    """`'; did you mean X?'` for the closest of `choices`, or an empty string when none is close."""
    pool = list(choices)
    if name in pool:
        return ""
    leaf = {choice.rsplit(".", 1)[-1]: choice for choice in reversed(pool)}
    match = difflib.get_close_matches(name, pool, n=1, cutoff=0.6)
    match = match or [leaf[m] for m in difflib.get_close_matches(name.rsplit(".", 1)[-1], leaf, n=1, cutoff=0.6)]
    return f"; did you mean {match[0]}?" if match else ""


@contextmanager
def reading(path: object) -> Iterator[None]:
    """Reports whatever a damaged file raises while it is read as one line.

    Args:
        path: The file, for the message.

    Raises:
        UserError: `<file>: not readable (<reason>)`.
    """
    try:
        yield
    except Exception as error:  # bytes that are not text, broken JSON or YAML, missing keys, an I/O error
        reason = error.strerror if isinstance(error, OSError) else None
        reason = reason or next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{path}: not readable ({reason})") from None


def out_of_memory(error: BaseException) -> str | None:
    """First line of an error of Python, numpy or torch that says that memory ran out; None for other errors."""
    text = str(error).strip()
    words = ("out of memory", "can't allocate memory", "storage size calculation overflowed")
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(word in text.lower() for word in words)
    ):
        return next(iter(text.splitlines()), "no details")
    return None


@contextmanager
def warn_on_failure(what: str) -> Iterator[None]:
    """Turns an exception into a warning: a picture must not cost the numbers of hours of training.

    Usage errors, failed runs, a full disk and a folder without write permission still end it.

    Args:
        what: What is missing after an exception.
    """
    try:
        yield
    except (UserError, RunFailedError):
        raise
    except Exception as error:
        if disk_error(error):
            raise
        logging.getLogger("saaae").warning("warning: no %s, because of an error of this program:", what, exc_info=True)
