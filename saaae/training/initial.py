"""Weights that a run starts from, instead of random ones."""

from pathlib import Path
from typing import Any

from torch import Tensor

from saaae.data.files import digest_of
from saaae.errors import UserError
from saaae.models.autoencoder import ImageAutoencoder
from saaae.runs.checkpoints import Start, read_weights
from saaae.runs.source import weights_file


def record_of_source(source: str | None, model: ImageAutoencoder, start: Start) -> dict[str, Any]:
    """Loads the weights that a new run starts from; a run that goes on has its own, and needs the source no more.

    Args:
        source: `init_from` of the configuration; None for random weights.
        model: Gets the weights.
        start: Where the run begins.

    Returns:
        What the run's record keeps as `init_from`: file, digest, number of tensors taken and of the model's tensors,
        and why the others are not taken. Empty without a source.

    Raises:
        UserError: If the file is missing, damaged or foreign, or nothing in it fits.
    """
    if source is None:
        return {}
    if start.checkpoint:
        began = start.content.get("run", {})
        return {key: began[key] for key in ("init_from",) if key in began}
    path = weights_file(source)
    weights, digest = read_weights(path), digest_of(path)
    fitting = fitting_weights(model, weights, path)
    model.load_state_dict(fitting, strict=False)
    own = model.state_dict()
    reasons = [
        f"{name} ({_misfit(weights.get(name), own.get(name))})" for name in {**own, **weights} if name not in fitting
    ]
    counts = {"tensors_taken": len(fitting), "tensors": len(own)}
    return {"init_from": {"path": str(path), "digest": digest, **counts, "not_taken": reasons}}


def fitting_weights(model: ImageAutoencoder, weights: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The weights whose names and shapes are those of a model; it may be on torch's meta device.

    Raises:
        UserError: If there is no parameter among them.
    """
    own = model.state_dict()
    fitting = {name: value for name, value in weights.items() if name in own and own[name].shape == value.shape}
    if not any(name in fitting for name, _ in model.named_parameters()):
        name = next(iter(own))
        raise UserError(
            f"init_from={path}: nothing in it fits this model, neither name nor shape of its {len(own)} tensors "
            f"({name}: {_misfit(weights.get(name), own[name])}); expected weights of the same model"
        )
    return fitting


def _misfit(there: Tensor | None, here: Tensor | None) -> str:
    """Why a tensor is not taken."""
    if there is None or here is None:
        return "not in the file" if there is None else "not in the model"
    sizes = ("x".join(map(str, value.shape)) or "one number" for value in (there, here))
    return "{} there, {} here".format(*sizes)
