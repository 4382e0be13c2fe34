"""Command-line overrides: their keys, and quoting of values."""

from pathlib import Path


def key_of(override: str) -> str:
    """The group or key that a typed override is about."""
    return override.lstrip("+~").partition("=")[0]


def quoted(path: Path) -> str:
    """A path as a value on the command line: Hydra reads `=` and `,` as its own unless quoted."""
    return f'"{in_quotes(str(path))}"' if set("=,") & set(str(path)) else str(path)


def in_quotes(text: str) -> str:
    """A text as Hydra's grammar takes it, whatever signs it holds."""
    escaped = text.replace("'", "\\'")
    return f"'{escaped}'"
