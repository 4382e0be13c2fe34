"""Reports that memory ran out while a model or its data were built."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from omegaconf import DictConfig

from saaae.errors import UserError, out_of_memory
from saaae.runs.folder import plain


@contextmanager
def within_memory(cfg: DictConfig, part: str) -> Iterator[None]:
    """Turns an out-of-memory error into one line with the part's largest setting, which is the likely reason.

    Args:
        cfg: The configuration.
        part: `model` or `data`.

    Raises:
        UserError: If memory runs out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        reason = out_of_memory(error)
        if reason is None:
            raise
        _, setting = max(_integers(plain(cfg, resolve=True)[part], part), default=(0, ""))
        hint = f"; its largest setting is {setting}" if setting else ""
        raise UserError(f"{part}: out of memory ({reason}){hint}") from None


def _integers(node: Any, key: str) -> Iterator[tuple[int, str]]:
    """The integer settings below a node: the largest number in each and `key=value`; seeds are not sizes."""
    if isinstance(node, dict):
        for name, child in node.items():
            yield from () if name == "seed" else _integers(child, f"{key}.{name}")
        return
    numbers = [number for number in (node if isinstance(node, list) else [node]) if type(number) is int]
    if numbers:
        yield max(numbers), f"{key}={node}"
