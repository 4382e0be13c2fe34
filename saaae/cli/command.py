"""What a command-line command consists of."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig


class Command(NamedTuple):
    """One entry point.

    Attributes:
        config_name: Its primary configuration in conf/.
        schema: Types of the plain settings at the root of that configuration.
        check: Checks a composed configuration and its overrides beyond types, without torch; raises UserError.
        run: Does the work, given the composed configuration.
        checked_later: Groups that make sense only in another configuration, where `check` looks at them.
        dry_build: Builds the models of a multirun's jobs without memory or data; gives one line for each error.
        compare: Compares the jobs of a multirun, given its folder; raises UserError where there is nothing to compare.
    """

    config_name: str
    schema: type
    check: Callable[[DictConfig, list[str]], None]
    run: Callable[[DictConfig], Any]
    checked_later: frozenset[str] = frozenset()
    compare: Callable[[Path], None] | None = None
    dry_build: Callable[[list[tuple[DictConfig, list[str]]]], list[str]] | None = None
