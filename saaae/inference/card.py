"""The card of an exported model: what a stranger must know to use it and to judge it."""

import shlex
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from saaae.atomic import read_json_or_empty
from saaae.config.overrides import key_of
from saaae.config.settings import marked
from saaae.inference.source import Source
from saaae.metrics.catalog import measure_of
from saaae.ranges import FOLDER
from saaae.runs.checkpoints import read_checkpoint
from saaae.runs.folder import RunFolder

if TYPE_CHECKING:
    from saaae.inference.model import TrainedModel

OF_MACHINE = ("name", "resume", "logger", "trust")
"""Settings at the root that say nothing about a model, beside folders."""


def without_machine(config: dict[str, Any]) -> dict[str, Any]:
    """A resolved configuration without names and paths of the machine that it was trained on."""
    dropped = {*OF_MACHINE, *marked(FOLDER, config["data"]["_target_"])}

    def kept(node: dict[str, Any], above: str = "") -> dict[str, Any]:
        found = {}
        for key, value in node.items():
            if f"{above}{key}" in dropped or (isinstance(value, str) and _is_path(value)):
                continue
            found[key] = kept(value, f"{above}{key}.") if isinstance(value, dict) else value
        return found

    return kept(config)


def _is_path(text: str) -> bool:
    return text.startswith(("/", "~", "file:"))


def command_of(folder: RunFolder, data_set: str) -> str:
    """The command that trains the model again, without paths of the machine; empty if it is not known."""
    if not folder.record.with_name("overrides.yaml").is_file():
        return ""
    dropped = {*OF_MACHINE, *marked(FOLDER, data_set)}
    words = [o for o in folder.overrides() if key_of(o) not in dropped and not _is_path(o.partition("=")[2])]
    return shlex.join(["python", "train.py", *words])


def card(model: "TrainedModel", source: Source, name: str) -> str:
    """The card, in Markdown.

    Args:
        model: The model.
        source: Where it comes from.
        name: Name of the exported folder.
    """
    network, data = type(model.network).__name__, model.config["data"]["_target_"].rpartition(".")[2]
    folder = RunFolder(source.path.parent.parent)
    record = read_json_or_empty(folder.metrics).get("run") or read_checkpoint(source.path).get("run") or {}
    side = f"{model.image_size} x {model.image_size}"
    sizes = f"any, {side} in training" if model.stride else f"{side} only, the latent is a vector"
    counts = ", ".join(f"{count} {split}" for split, count in record.get("images", {}).items())
    facts = {
        "model": f"`{model.config['model']['_target_']}`, latent {'x'.join(map(str, model.network.latent_shape))}",
        "parameters": f"{sum(p.numel() for p in model.network.parameters()):,}",
        "channels": model.channels,
        "pixels": sizes,
        "values": "float32 in [0, 1]; uint8 (255 becomes 1.0) and uint16 (65535 becomes 1.0) are converted",
        "training data": f"`{data}` ({model.domain})" + (f": {counts} images" if counts else ""),
    }
    if classes := model.network.num_classes:
        named = ", ".join(f"{number} {name}" for number, name in enumerate(model.class_names or ()))
        facts["classes"] = f"{named or f'0 to {classes - 1}'}: `label=` is required"
    made = {
        "command": f"`{command_of(folder, model.config['data']['_target_'])}`",
        "commit": f"{record.get('commit')}{' with changes' if record.get('dirty') else ''}",
        "seed": model.config.get("seed"),
        "device": record.get("device"),
        "versions": ", ".join(f"{key} {value}" for key, value in record.get("versions", {}).items()),
    }
    made = {key: text for key, text in made.items() if text not in (None, "", "``", "None")}
    call = "model.reconstruct(images, label=classes)" if model.network.num_classes else "model.reconstruct(images)"
    parts = [
        "---\nlibrary_name: saaae\ntags: [image-reconstruction, autoencoder]\n---",
        f"# {name}",
        f"A trained {network}, exported by saaae {version('saaae')}.",
        _table(facts),
        "## Use",
        f'```python\nimport saaae\n\nmodel = saaae.load("{name}")\nx_hat = {call}  # (B, C, H, W) in [0, 1]\n```',
        "## Test metrics",
        _metrics(source.metrics),
        "## How it was made",
        _table(made),
        "## Licence",
        "The code of saaae is under the MIT licence. The weights are their author's to license; the licence of the "
        "training data may restrict their use.",
    ]
    return "\n\n".join(parts) + "\n"


def _table(rows: dict[str, Any]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())])


def _metrics(metrics: dict[str, Any]) -> str:
    """The test metrics with their meaning."""
    if not metrics:
        return "Not known: the run has not finished, or this is not its best checkpoint."
    lines = ["| metric | value | unit | meaning |", "|---|---|---|---|"]
    for name, value in metrics.items():
        measure = measure_of(name)
        number = f"{value:.5g}" if isinstance(value, int | float) else "not finite"
        lines.append(
            f"| {name} | {number} | {measure.unit if measure else ''} | {measure.meaning if measure else ''} |"
        )
    return "\n".join(lines)
