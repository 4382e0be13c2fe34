"""Checks a composed configuration before any heavy import: one line per error."""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from hydra.errors import ConfigCompositionException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, MissingMandatoryValue, OmegaConfBaseException

from saaae.config.schema import NODES, OWNERS, Train
from saaae.config.settings import UNHASHED, hints
from saaae.config.signature import Signature, choices, mismatch, signature
from saaae.errors import UserError, nearest

LATER = {"data.allow_duplicates": True, "data.clip": True, **UNHASHED}
"""Settings of parts that did not exist in earlier runs, at the values that those had."""

SPECIAL = {"_target_", "_partial_", "_recursive_", "_convert_"}


def keys_of(node: Any, prefix: str = "") -> Iterator[str]:
    """All dotted keys of a plain nested mapping, inner ones included."""
    if isinstance(node, dict):
        for key, child in node.items():
            yield f"{prefix}{key}"
            yield from keys_of(child, f"{prefix}{key}.")


def config_errors(
    cfg: DictConfig, root: type, groups: Mapping[str, list[str]], checked_later: Collection[str] = ()
) -> list[str]:
    """Errors of a composed configuration, one line each.

    Args:
        cfg: The configuration, interpolations unresolved.
        root: Schema of the plain settings at its root.
        groups: Options of every config group.
        checked_later: Groups whose content is not checked here.
    """
    settings = hints(root)
    found: list[str] = []
    for key in map(str, cfg):
        if key in settings.parameters:
            found += _check_leaf(cfg, key, settings.parameters[key].annotation, key)
        elif key in NODES:
            found += _check_mapping(cfg._get_node(key), NODES[key], key)
        elif key in checked_later:
            continue
        elif key in groups and cfg[key] is None:
            found.append(f"{key}=null: expected one of {', '.join(groups[key])}")
        elif key in groups:
            found += _check_group(cfg._get_node(key), key)
        else:
            found.append(f"{key}: no such key{nearest(key, [*settings.parameters, *NODES, *groups])}")
    found += [f"{key}: missing" for key in settings.parameters if key not in cfg]
    for owner in sorted({"data", "model"} & set(map(str, cfg)) - set(checked_later)):
        found += _options_as_values(cfg._get_node(owner), owner, groups)
    return list(dict.fromkeys(found))


def _options_as_values(node: Any, owner: str, groups: Mapping[str, list[str]]) -> Iterator[str]:
    """Errors where the name of an option stands for a node, such as data.corruption=jpeg."""
    for key in map(str, node) if isinstance(node, DictConfig) and not node._is_none() else ():
        child = node._get_node(key)
        is_group = key in groups and key not in Train.__annotations__
        value = child._value() if is_group and hasattr(child, "_value") else None
        if isinstance(value, str) and not value.startswith("${"):
            group = key if groups[key] else f"+{key}@{owner}.{key}"  # evaluate.py has no such group
            hint = nearest(value, groups[key])
            yield f"{owner}.{key}={value}: an option is chosen by its group; expected {group}={value}{hint}"


def complete_stored_config(stored: DictConfig) -> DictConfig:
    """The configuration of an earlier run with the settings that did not exist then, at the values that they had."""
    for path, schema in {"": Train, **NODES}.items():
        node = OmegaConf.select(stored, path) if path else stored
        if isinstance(node, DictConfig):
            for name in schema.__annotations__:
                if hasattr(schema, name) and name not in node:
                    node[name] = getattr(schema, name)
    for path, value in LATER.items():
        group, _, name = path.rpartition(".")
        node = OmegaConf.select(stored, group)
        expected = signature(str(node.get("_target_"))) if isinstance(node, DictConfig) else None
        if expected and name in expected.parameters and name not in node:
            node[name] = value
    return stored


def check_stored_config(stored: DictConfig) -> None:
    """Checks the configuration of an earlier run: it may be of another version of this project, or edited.

    Raises:
        UserError: With the first error.
    """
    for line in config_errors(stored, Train, {str(key): [] for key in stored}):
        raise UserError(line)


def clashes(cfg: DictConfig) -> list[str]:
    """Settings of devices and of the length of the run that do not go together, one line each.

    What model and data refuse is said by their constructors; `training.build.build_errors` calls these without data.
    """
    errors = _device_clashes(cfg.get("accelerator"))
    trainer = cfg.get("trainer")
    if trainer is not None and trainer.max_steps == -1 and trainer.max_epochs in (None, -1):
        errors.append(
            f"trainer.max_epochs={trainer.max_epochs}: nothing ends the run; expected a number of epochs or steps"
        )
    return errors


def _device_clashes(accelerator: DictConfig | None) -> list[str]:
    """Devices, strategies and precisions that do not go together, as far as no device need be asked."""
    if accelerator is None:
        return []
    found = []
    kind, devices, strategy, precision = (
        accelerator[key] for key in ("accelerator", "devices", "strategy", "precision")
    )
    if precision == "16-mixed" and kind == "cpu":
        found.append(f"accelerator.precision={precision}: needs a GPU; on a CPU use bf16-mixed or 32-true")
    if precision == "64-true" and kind == "mps":
        found.append(f"accelerator.precision={precision}: Apple's GPU has no 64-bit numbers; expected 32-true")
    if strategy == "fsdp" and kind == "mps":
        found.append("accelerator.strategy=fsdp: Apple machines have one GPU; expected auto")
    if strategy == "fsdp" and precision == "16-mixed":
        found.append(f"accelerator.precision={precision}: not with accelerator.strategy=fsdp; expected bf16-mixed")
    if strategy == "fsdp" and accelerator.memory_format == "channels_last":
        found.append("accelerator.memory_format=channels_last: not with accelerator.strategy=fsdp; expected contiguous")
    if kind in ("cpu", "mps") and devices == "auto":
        found.append(f"accelerator.devices=auto: is for GPUs; with accelerator.accelerator={kind} expected a number")
    if kind == "mps" and devices != 1:
        found.append(f"accelerator.devices={devices}: Apple machines have one GPU; expected 1")
    return found


def _check_mapping(node: Any, schema: type, path: str) -> list[str]:
    if not isinstance(node, DictConfig):
        return [f"{path}: expected a mapping of {path}.* settings"]
    return _check_arguments(node, hints(schema), path, partial=False)


def _check_group(node: Any, path: str) -> list[str]:
    """A node with a `_target_`, or a mapping of such nodes; an interpolated node is checked where it stands."""
    if not isinstance(node, DictConfig) or node._is_none() or node._is_interpolation():
        return []
    if "_target_" not in node:
        return [error for key in map(str, node) for error in _check_group(node._get_node(key), f"{path}.{key}")]
    target = str(node._target_)
    found = signature(target)
    if found is None:
        return [f"{path}._target_={target}: no such class or function"]
    return _check_arguments(node, found, path, partial=bool(node.get("_partial_")))


def _check_arguments(node: DictConfig, expected: Signature, path: str, partial: bool) -> list[str]:
    found = []
    for key in map(str, node):
        if key in SPECIAL:
            continue
        if key not in expected.parameters:
            if not expected.open:
                known = [f"{path}.{name}" for name in expected.parameters]
                owner = OWNERS.get(f"{path}.{key}")
                hint = nearest(f"{path}.{key}", known)
                found.append(f"{path}.{key}: " + (f"expected {owner} instead" if owner else f"no such key{hint}"))
            continue
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none():
            found += _check_group(child, f"{path}.{key}")
        else:
            found += _check_leaf(node, key, expected.parameters[key].annotation, f"{path}.{key}")
    if not partial:
        required = (name for name, parameter in expected.parameters.items() if parameter.required)
        found += [f"{path}.{name}: missing" for name in required if name not in node]
    return found


def _check_leaf(parent: DictConfig, key: str, annotation: Any, path: str) -> list[str]:
    source = (_source_of(parent, key) if "." in path else None) or path  # root settings are not copies of others
    try:
        value = parent[key]
    except MissingMandatoryValue:
        return [f"{source}: missing, expected {_describe(annotation)}"]
    except (InterpolationResolutionError, OmegaConfBaseException) as error:
        return [f"{source}: {str(error).splitlines()[0]}"]
    if isinstance(value, DictConfig):
        return []
    if isinstance(value, ListConfig):
        value = OmegaConf.to_container(value, resolve=True)
    expected = mismatch(annotation, value)
    if expected is None:
        return []
    hint = nearest(value, choices(annotation)) if isinstance(value, str) else ""
    return [f"{source}={'null' if value is None else value}: expected {expected}{hint}"]


def _source_of(parent: DictConfig, key: str) -> str | None:
    """The key that an interpolation such as ${data.image_size} or ${oc.select:data.looks,4} points at."""
    node = parent._get_node(key)
    raw = node._value() if node is not None and hasattr(node, "_value") else None
    match = re.fullmatch(r"\$\{(?:oc\.select:)?([\w.]+)(?:,[^}]*)?\}", raw) if isinstance(raw, str) else None
    return match.group(1) if match else None


def _describe(annotation: Any) -> str:
    return mismatch(annotation, {"": None}) or "a value"


def explain(error: Exception, known: list[str], groups: dict[str, list[str]]) -> str:
    """One line for an error of Hydra.

    Args:
        error: What composing raised.
        known: All dotted keys of the default configuration.
        groups: Options of every config group.
    """
    text = str(error)
    if isinstance(error, OverrideParseException):
        key, equals, value = str(error.override).partition("=")
        hint = f"; a value with = or other special characters needs quotes: \"{key}='{value}'\"" if equals else ""
        return f"{error.override}: not of the form key=value{hint}"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.partition("/")
        if group not in groups:
            return f"{group}: no such group{nearest(group, groups)}"
        options = groups[group]
        return f"{group}={option}: no such option; expected one of {', '.join(options)}{nearest(option, options)}"
    if (match := re.search(r"Could not override '([^']+)'", text)) or (match := re.search(r"Key '([^']+)'", text)):
        key = match.group(1)
        if key in OWNERS:
            return f"{key}: expected {OWNERS[key]} instead"
        if key in known:
            group = key.partition(".")[0]
            return f"{key}: the default {group} has this key, the one chosen here has not; --cfg job shows those it has"
        return f"{key}: no such key{nearest(key, [*known, *groups])}"
    if match := re.search(r"Interpolation key '(\w+)", text):
        group = match.group(1)
        return f"{group}: missing; expected one of {', '.join(groups.get(group, []))}"
    if isinstance(error, ConfigCompositionException) and error.__cause__ is not None:
        text = f"{text}: {error.__cause__}"
    return " ".join(text.split())
