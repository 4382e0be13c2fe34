"""Which settings change the numbers of a run; the hash of a configuration."""

import hashlib
import json
import typing
from collections.abc import Collection, Iterator
from functools import cache
from typing import Any

from omegaconf import DictConfig, OmegaConf

from saaae.config.schema import NODES, Train
from saaae.config.signature import Parameter, Signature, signature
from saaae.ranges import LENGTH, RUNTIME, has_mark

DATA_SETS = ("saaae.data.speckle.SpeckleData", "saaae.data.folder.FolderData", "saaae.data.stream.StreamData")
"""Data sets whose marks hold wherever only overrides are known; they have all marked settings between them."""

UNHASHED = {
    "data.crop": None,
    "data.crop_noise": 0.0,
    "data.labels": None,
    "data.binarize": None,
    "model.encoder.blocks": 1,
    "model.decoder.blocks": 0,
    "posterior.gain": "fixed",
    "model.posterior.gain": "fixed",
    "model.flips": False,
    "model.residual": 0.0,
    "data.families": "basic",
    "data.gain": None,
}
"""Settings of parts that did not exist in earlier runs, with the values at which the digest leaves them out."""


@cache
def marked(mark: str, data_set: str = "") -> tuple[str, ...]:
    """Dotted keys of the settings whose annotation carries a mark of `saaae.ranges`.

    A part of the schema whose settings all carry it, such as `accelerator`, stands for them.

    Args:
        mark: `RUNTIME`, `LENGTH`, `FOLDER` or `TARGET`.
        data_set: Path of a further data set's class.
    """
    keys = _with_mark(hints(Train), mark)
    for path, schema in NODES.items():
        names = _with_mark(hints(schema), mark)
        keys += [path] if len(names) == len(hints(schema).parameters) else [f"{path}.{name}" for name in names]
    found = [signature(path) for path in (*DATA_SETS, data_set) if path]
    keys += [f"data.{name}" for settings in found if settings for name in _with_mark(settings, mark)]
    return tuple(dict.fromkeys(keys))


def _with_mark(settings: Signature, mark: str) -> list[str]:
    return [name for name, parameter in settings.parameters.items() if has_mark(parameter.annotation, mark)]


@cache
def hints(schema: type) -> Signature:
    """The settings of a part of the schema."""
    annotations = typing.get_type_hints(schema, include_extras=True)
    return Signature({name: Parameter(annotation, True) for name, annotation in annotations.items()}, open=False)


def is_among(key: str, keys: Collection[str]) -> bool:
    """Whether a setting is one of those, or inside one of them."""
    return any(key == each or key.startswith(f"{each}.") for each in keys)


def is_runtime(key: str) -> bool:
    """Whether a setting leaves the numbers of a run as they are."""
    return is_among(key, marked(RUNTIME))


def affects_results(key: str) -> bool:
    """Whether runs that differ in a setting are different experiments: a run may continue in another precision, too."""
    return key == "accelerator.precision" or not is_runtime(key)


def plain(cfg: DictConfig, resolve: bool = False) -> dict[str, Any]:
    """Plain nested dictionaries of a configuration."""
    container = OmegaConf.to_container(cfg, resolve=resolve)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def settings_of(cfg: DictConfig) -> dict[str, Any]:
    """Dotted leaves of a configuration that define its numbers, interpolations as written."""
    return {key: value for key, value in _leaves(plain(cfg)) if not is_runtime(key)}


def _leaves(node: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values; a key may have dots of its own, such as a file's name."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def config_hash(cfg: DictConfig) -> str:
    """Digest of all settings but those of runtime and the length of the run.

    A setting that came later is left out where it has the value that runs had before: their digests stay.
    """
    before = {**vars(Train), **UNHASHED}
    leaves = {
        key: value
        for key, value in settings_of(cfg).items()
        if key not in marked(LENGTH) and not (key in before and value == before[key])
    }
    return hashlib.sha256(json.dumps(leaves, sort_keys=True).encode()).hexdigest()[:16]
