"""Trained models for others: a folder of weights with a card, an ONNX graph, a torch.export program."""

import contextlib
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from saaae.config.settings import plain
from saaae.errors import UserError
from saaae.inference.card import card, without_machine
from saaae.inference.model import TrainedModel, build_network
from saaae.inference.source import Source
from saaae.models.autoencoder import ImageAutoencoder
from saaae.rng import IndexedRandom
from saaae.runs.checkpoints import read_weights
from saaae.runs.exported import CARD, CONFIG, FORMAT, WEIGHTS, read_description
from saaae.types import Batch

TOLERANCE = 1e-4
"""Largest difference of a pixel in [0, 1] between an exported model and the torch model."""

NUM_CHECKED = 8
"""Images that an export is checked on."""


class Exported(NamedTuple):
    """A written export.

    Attributes:
        path: Where it is.
        size: Its size in bytes.
        takes: Which images it takes.
        difference: Its largest difference to the torch model.
        checked_on: The images of that check.
    """

    path: Path
    size: int
    takes: str
    difference: float
    checked_on: str


class Example(NamedTuple):
    """Images to check an export on.

    Attributes:
        images: (B, C, H, W), float32 in [0, 1].
        label: Their classes (B,), int64, for a conditional model; else None.
        kind: Where they come from.
    """

    images: Tensor
    label: Tensor | None
    kind: str


class Reconstruct(nn.Module):
    """The deterministic reconstruction as a function of images, and of classes for a conditional model.

    Args:
        network: The torch model.
    """

    def __init__(self, network: ImageAutoencoder) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, label: Tensor | None = None) -> Tensor:
        """Reconstructions (B, C, H, W) in [0, 1] of images of the same shape, from the posterior mean."""
        indices = torch.zeros(images.shape[0], dtype=torch.int64, device=images.device)
        return self.network.reconstruct(Batch(images, images, indices, IndexedRandom(0, indices), label))


def exportable(source: Source) -> TrainedModel:
    """The model of a source in float32, whatever the precision of its run."""
    config = source.config.copy()
    if "accelerator" in config:
        config.accelerator.precision, config.accelerator.memory_format = "32-true", "contiguous"
    source = source._replace(config=config)
    return TrainedModel(build_network(source), source)


def example_of(model: TrainedModel) -> Example:
    """Test images of the model's run; random ones where its data cannot be read."""
    try:
        data = model.data()
        batch = data.batch("test", torch.arange(min(NUM_CHECKED, data.num_images("test"))))
        label = batch.label if model.network.num_classes else None
        return Example(batch.input, label, f"{len(batch.input)} test images of its run")
    except (UserError, OSError) as error:
        shape = (NUM_CHECKED, model.channels, model.image_size, model.image_size)
        images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        label = torch.arange(NUM_CHECKED) % classes if (classes := model.network.num_classes) else None
        return Example(images, label, f"{NUM_CHECKED} random images, its data cannot be read ({error})")


def export_folder(source: Source, target: Path) -> Exported:
    """Writes the exported form: weights, configuration without this machine's paths, metrics, and a card.

    Raises:
        UserError: If the target exists, or the written model is not the same.
    """
    model = exportable(source)
    example = example_of(model)
    weights = {name: value.detach().clone().contiguous() for name, value in source.weights.items()}
    config = without_machine(plain(source.config, resolve=True))
    content = {"saaae_format": FORMAT, "config": config, "metrics": source.metrics}
    with _beside(target) as folder:
        folder.mkdir()
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
        (folder / CONFIG).write_text(json.dumps(content, indent=2) + "\n")
        (folder / CARD).write_text(card(model, source, target.name))
        stored, metrics = read_description(folder)
        copy = exportable(Source(folder, stored, read_weights(folder / WEIGHTS), metrics))
        difference = _largest_difference(model, copy.network, example, [example.images])
        for path in folder.iterdir():
            _sync(path)
    size = sum(path.stat().st_size for path in target.iterdir())
    return Exported(target, size, _takes(model, model.stride is not None, padded=True), difference, example.kind)


def export_graph(source: Source, target: Path) -> Exported:
    """Writes an ONNX graph or a torch.export program, by the target's suffix, and checks it against the torch model.

    It takes any number of images, and images of any size if the latent is a map and the layers allow it.

    Raises:
        UserError: If the target exists, the model cannot be exported, or the export differs from it.
    """
    model = exportable(source)
    return write_graph(model, example_of(model), target)


def write_graph(model: TrainedModel, example: Example, target: Path) -> Exported:
    """Likewise for a loaded model, checked on the given images."""
    form = GRAPHS[target.suffix]
    facts = _facts(model)
    sizes = [True, False] if model.stride else [False]
    for any_size in sizes:
        try:
            with _beside(target) as file, _quiet():
                run = form(_program(model, any_size), file, facts | {"any_size": str(any_size).lower()})
                images = _check_images(example, model.stride if any_size else None)
                difference = _largest_difference(model, run, example, images)
                _sync(file)
            return Exported(target, target.stat().st_size, _takes(model, any_size), difference, example.kind)
        except (UserError, OSError):
            raise
        except Exception as error:  # torch.export and the converters raise dozens of kinds
            if any_size is sizes[-1]:
                reason = next(iter(str(error).splitlines()), type(error).__name__)
                raise UserError(
                    f"{target}: a {type(model.network).__name__} with these settings cannot be exported ({reason})"
                ) from error
    raise AssertionError


def _program(model: TrainedModel, any_size: bool) -> torch.export.ExportedProgram:
    """The traced model."""
    batch, side = torch.export.Dim("batch"), model.image_size
    axes: dict[int, Any] = {0: batch}
    if any_size and model.stride:
        side = max(side, 2 * model.stride)  # a single latent cell would be taken for a constant
        axes |= {2: model.stride * torch.export.Dim("rows"), 3: model.stride * torch.export.Dim("columns")}
    arguments = [torch.zeros(2, model.channels, side, side)]
    shapes: dict[str, Any] = {"images": axes}
    if model.network.num_classes:
        arguments.append(torch.zeros(2, dtype=torch.int64))
        shapes["label"] = {0: batch}
    with torch.no_grad():
        module = Reconstruct(model.network).eval()
        program = torch.export.export(module, tuple(arguments), dynamic_shapes=shapes)
    program.graph.eliminate_dead_code()  # what a posterior computes beside its mean
    return program


def _write_onnx(program: torch.export.ExportedProgram, file: Path, facts: dict[str, str]) -> Callable[..., Tensor]:
    """Writes an ONNX file; returns what it computes."""
    import onnxruntime

    converted = torch.onnx.export(program, dynamo=True, verbose=False)
    assert converted is not None
    converted.model.graph.outputs[0].name = "reconstruction"
    converted.model.metadata_props.update(facts)
    converted.save(file, external_data=False)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # an error is raised anyway
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(*inputs: Tensor) -> Tensor:
        given = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        return torch.from_numpy(session.run(None, given)[0])

    return run


def _write_program(program: torch.export.ExportedProgram, file: Path, facts: dict[str, str]) -> Callable[..., Tensor]:
    """Writes a file for `torch.export.load`; returns what it computes."""
    torch.export.save(program, file, extra_files={"saaae.json": json.dumps(facts)})
    return torch.export.load(file).module()


GRAPHS = {".onnx": _write_onnx, ".pt2": _write_program}
"""Who writes a graph, by the suffix of its file."""


def _facts(model: TrainedModel) -> dict[str, str]:
    """What a user of a graph must know, and where it comes from; no path of this machine."""
    run = model.path.parent.parent.name if model.path.suffix == ".ckpt" else model.path.name
    return {
        "image_size": str(model.image_size), "channels": str(model.channels), "range": "0 1",
        "stride": str(model.stride or ""), "classes": str(model.network.num_classes or ""), "run": run,
        "saaae": version("saaae"), **({"class_names": json.dumps(model.class_names)} if model.class_names else {}),
    }  # fmt: skip


def _check_images(example: Example, stride: int | None) -> list[Tensor]:
    """The images, one of them alone and, where sizes are free, larger ones."""
    images = [example.images, example.images[:1]]
    if stride:
        side = example.images.shape[-1]
        wide = torch.cat([example.images, example.images.flip(-1)], -1)
        large = torch.cat([wide, wide.flip(-2)], -2)
        images += [wide[..., : side + stride], large[..., : side + 2 * stride, :]]
    return images


@torch.no_grad()
def _largest_difference(
    model: TrainedModel, run: Callable[..., Tensor], example: Example, images: list[Tensor]
) -> float:
    """Largest absolute difference of a pixel to the torch model.

    Raises:
        UserError: If it is above the tolerance.
    """
    expected = Reconstruct(model.network).eval()
    run = Reconstruct(run).eval() if isinstance(run, ImageAutoencoder) else run
    difference = 0.0
    for x in images:
        inputs = (x,) if example.label is None else (x, example.label[: len(x)])
        there, here = run(*inputs), expected(*inputs)
        if there.shape != here.shape or not there.isfinite().all():
            raise UserError(f"export: its results are {tuple(there.shape)}, not all finite; nothing was kept")
        difference = max(difference, (there - here).abs().max().item())
    if difference > TOLERANCE:
        raise UserError(
            f"export: differs from the torch model by {difference:.2g} on {example.kind}, at most {TOLERANCE:g} is "
            "accepted; nothing was kept"
        )
    return difference


def _takes(model: TrainedModel, any_size: bool, padded: bool = False) -> str:
    """Which images an export takes, for the reader."""
    if any_size and padded:
        return "images of any size"
    if any_size:
        return f"any number of images whose sides are multiples of {model.stride}"
    return f"any number of images of {model.image_size} x {model.image_size} pixels"


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A path to write beside the target, which it becomes at the end; an exception leaves no trace of it.

    Raises:
        UserError: If the target exists, or its folder cannot be written.
    """
    if target.exists():
        raise UserError(f"to={target}: exists already; choose another, or remove it")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    except OSError as error:
        raise UserError(f"to={target}: cannot be written ({error.strerror}); expected a folder that can") from None
    with temporary as folder:
        partial = Path(folder) / target.name
        yield partial
        os.rename(partial, target)


def _sync(path: Path) -> None:
    """Makes the content of a file last through a power cut."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the notes of torch.export and its converters."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "torch._export", "onnxscript")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
