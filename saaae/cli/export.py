"""`saaae export`: a trained model for others, as a folder or as a graph."""

import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

from saaae.cli.console import ConsoleCommand
from saaae.errors import UserError, nearest
from saaae.runs.exported import is_exported
from saaae.runs.folder import RunFolder

PACKAGES = {".onnx": ("onnx", "onnxscript", "onnxruntime"), ".pt2": ()}
"""What writes and checks a graph beside torch, by the suffix of its file."""

OTHER_FORMS = (".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".h5", ".tflite")


@dataclass(frozen=True)
class Export:
    """Exports a trained model as a folder, an ONNX graph or a torch.export program, and checks that it is the same.

    A folder has the weights (safetensors), the configuration without paths of this machine, the test metrics and a
    card; `saaae.load` and `saaae export` read it. A graph (.onnx, .pt2) is the reconstruction of images in [0, 1] from
    the posterior mean, in float32; a conditional model also takes `label`.
    """

    run: Annotated[str, "run folder, checkpoint or exported folder"]
    to: Annotated[str, "a new folder, or a new file that ends in .onnx or .pt2"]
    checkpoint: Annotated[Literal["best", "last"], "of a run folder"] = "best"
    push: Annotated[str | None, "uploads the folder to the Hugging Face hub, owner/name, private if new"] = None
    trust: Annotated[tuple[str, ...], "packages whose classes the configuration may instantiate, besides saaae"] = ()


def check(settings: Export) -> None:
    """Everything that can be refused before torch is imported.

    Raises:
        UserError: Naming the setting.
    """
    source, target = Path(settings.run).expanduser(), Path(settings.to).expanduser()
    if not is_exported(source) and not source.is_file():
        RunFolder(source).full_config()
    if target.exists():
        raise UserError(f"to={target}: exists already; choose another, or remove it")
    hint = nearest(target.suffix, PACKAGES)
    if target.suffix in OTHER_FORMS or hint:
        raise UserError(f"to={target}: expected a folder, or a file that ends in .onnx or .pt2{hint}")
    if target.suffix not in PACKAGES and is_exported(source):
        raise UserError(f"run={source}: an exported folder already; copy it, or export a graph (.onnx, .pt2)")
    if settings.push is not None:
        _check_push(settings.push, target)
    if missing := [name for name in PACKAGES.get(target.suffix, ()) if find_spec(name) is None]:
        raise UserError(f"to={target}: needs {', '.join(missing)}; pip install -e '.[onnx]', or uv sync --extra onnx")


def _check_push(repository: str, target: Path) -> None:
    if target.suffix in PACKAGES:
        raise UserError(f"push={repository}: for a folder; expected to=<a new folder>, not {target}")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise UserError(f"push={repository}: expected a repository of the Hugging Face hub, owner/name")
    if find_spec("huggingface_hub") is None:
        raise UserError(f"push={repository}: needs huggingface_hub; pip install -e '.[hub]', or uv sync --extra hub")


def run(settings: Export) -> None:
    """Writes and checks the export, and prints what it is."""
    check(settings)
    from saaae.inference.export import GRAPHS, export_folder, export_graph
    from saaae.inference.hub import push
    from saaae.inference.source import read_source

    target = Path(settings.to).expanduser()
    source = read_source(Path(settings.run), settings.checkpoint, settings.trust)
    written = (export_graph if target.suffix in GRAPHS else export_folder)(source, target)
    print(f"exported     {written.path} ({written.size / 2**20:.1f} MB): {written.takes}")
    print(f"checked      largest difference {written.difference:.1g} on {written.checked_on}")
    if settings.push is not None:
        print(f"pushed       {push(settings.push, target)}")


COMMAND = ConsoleCommand(Export, run, positional=("run", "to"), example="saaae export outputs/first to=first.onnx")
