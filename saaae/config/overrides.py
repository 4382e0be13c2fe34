"""Command-line overrides: their keys, and quoting of values."""

import os
import re
import shlex
from collections.abc import Collection, Sequence
from pathlib import Path

PATH_KEYS = ("resume", "run", "checkpoint", "init_from")
"""Settings that take the path of a run or checkpoint."""


_WORDS = ("null", "true", "false", "inf", "nan")
"""What Hydra does not read as text."""


def key_of(override: str) -> str:
    """The group or key that a typed override is about."""
    return override.lstrip("+~").partition("=")[0]


def quoted(path: Path) -> str:
    """A path as a value that can be pasted into a POSIX shell and that Hydra reads as it is.

    `python evaluate.py run=` in front of it is a command for any name of a folder.
    """
    text = str(path)
    if re.fullmatch(r"[A-Za-z0-9_./-]+", text):
        return text
    value = in_quotes(text)
    return shlex.quote(value) if set('$`"\\!') & set(value) else f'"{value}"'


def in_quotes(text: str) -> str:
    """A text in quotes of Hydra's grammar."""
    escaped = re.sub(r"(\\*)'", r"\1\1\'", text)
    trailing = len(escaped) - len(escaped.rstrip("\\"))
    return f"'{escaped}{chr(92) * trailing}'"


def list_override(key: str, texts: Sequence[str]) -> str:
    """An override of a list of texts that can be pasted into a POSIX shell and that Hydra reads as it is."""
    plain = all(re.fullmatch(r"[A-Za-z_]\w*", text) and text.lower() not in _WORDS for text in texts)
    return shlex.quote(f"{key}=[{','.join(texts if plain else map(in_quotes, texts))}]")


def quote_paths(words: list[str]) -> list[str]:
    """Quotes existing paths that Hydra's grammar does not accept: folders of jobs have `=` in their names."""
    return [_with_quoted_path(word) for word in words]


def _with_quoted_path(word: str) -> str:
    key, _, value = word.partition("=")
    is_text = key in PATH_KEYS and "=" in value and value[0] not in "'\"["
    is_path = is_text and os.path.exists(value)  # not Path.exists, which raises if the name is too long
    return f"{key}={in_quotes(value)}" if is_path else word


def positionals_last(arguments: list[str], with_value: Collection[str]) -> list[str]:
    """Command-line words with all overrides behind the options: argparse does not take them on both sides of one.

    Args:
        arguments: The words.
        with_value: Options whose value is the next word.
    """
    options: list[str] = []
    overrides: list[str] = []
    for before, word in zip(["", *arguments], arguments, strict=False):
        (options if word.startswith("-") or before in with_value else overrides).append(word)
    return options + overrides
