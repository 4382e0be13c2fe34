"""Which settings change the numbers of a run; the hash of a configuration."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

RUNTIME_KEYS = ("name", "objective", "resume", "trust",
        "data_dir", "cache_dir", "data.num_workers", "data.resident", "data.cache_gb", "data.allow_duplicates",
        "accelerator", "on_nonfinite", "pictures", "keep_freed_memory",
        "trainer.enable_progress_bar", "trainer.enable_model_summary")  # fmt: skip
"""Settings that say where a run computes and what it displays, not what it computes."""

LENGTH_KEYS = ("trainer.max_epochs", "trainer.max_steps", "trainer.max_time")


def is_free(key: str) -> bool:
    """Whether a setting leaves the numbers of a run alone."""
    return any(key == free or key.startswith(f"{free}.") for free in RUNTIME_KEYS)


def affects_results(key: str) -> bool:
    """Whether runs that differ in a setting are different experiments: a run may go on in another precision, too."""
    return key == "accelerator.precision" or not is_free(key)


def plain(cfg: DictConfig, resolve: bool = False) -> dict[str, Any]:
    """Plain nested dictionaries of a configuration."""
    container = OmegaConf.to_container(cfg, resolve=resolve)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def settings_of(cfg: DictConfig) -> dict[str, Any]:
    """Dotted leaves of a configuration that define its numbers, interpolations as written."""
    return {key: value for key, value in _leaves(plain(cfg)) if not is_free(key)}


def _leaves(node: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values; a key may have dots of its own, such as a file's name."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def config_hash(cfg: DictConfig) -> str:
    """Digest of all settings but the free ones and the length of the run."""
    leaves = {key: value for key, value in settings_of(cfg).items() if key not in LENGTH_KEYS}
    return hashlib.sha256(json.dumps(leaves, sort_keys=True).encode()).hexdigest()[:16]
