"""One trained model as the page shows it: pictures of images, latents that are moved, the plane, the path, samples."""

import math
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from saaae.errors import UserError
from saaae.explore.corruptions import adjustable
from saaae.explore.gallery import Gallery
from saaae.explore.pictures import address
from saaae.explore.recipe import Recipe
from saaae.inference.model import TrainedModel
from saaae.metrics.latent import LatentStatistics
from saaae.metrics.pixel_detection import smooth, squared_residual
from saaae.rng import IndexedRandom
from saaae.types import Batch, Posterior
from saaae.visualization.mosaic import Row
from saaae.visualization.panels import error_row, outlined, reconstruction_rows

STEPS = 9
"""Images of a path, both ends included."""
SAMPLES = 16
"""Samples of the prior that are shown together."""
CACHED = 16
"""Encoded images that are kept, so that a slider costs a decoding only."""


@dataclass
class Encoded:
    """An encoded image.

    Attributes:
        batch: The image, prepared for the decoder; its label is its own class.
        posterior: Its posterior; of a sample of the prior, that of the decoded image.
        code: The latents that are decoded (1, *latent_shape).
        rows: Pictures that no slider changes, once they are known.
    """

    batch: Batch
    posterior: Posterior
    code: Tensor
    rows: list[Row] = field(default_factory=list)


class Explored:
    """A trained model and what it makes of the gallery's images.

    Args:
        model: The model.
        gallery: Its images.
        name: How the page calls the run.

    Attributes:
        is_map: Whether the latent is a map.
        codes: Latents of the gallery's images (N, *latent_shape), on the CPU.
        scores: What surprises the model in each image (N,), see `score_name`.
    """

    def __init__(self, model: TrainedModel, gallery: Gallery, name: str) -> None:
        self.model, self.network, self.gallery, self.name = model, model.network, gallery, name
        self.is_map = len(self.network.latent_shape) == 3
        self._encoded: OrderedDict[tuple[Any, ...], Encoded] = OrderedDict()
        with torch.no_grad():
            self._measure()

    # What is measured once

    def _measure(self) -> None:
        """Encodes the gallery: latents, their KL, scores."""
        statistics, codes, scores = LatentStatistics(math.prod(self.network.latent_shape)), [], []
        statistics.to(self.model.device)
        for batch in map(self._ready, self.gallery.batches()):
            posterior = self.network.encode(batch)
            statistics.update(posterior)
            codes.append(posterior.mode.cpu())
            scores.append(self._scores(batch, posterior).cpu())
        self.codes, self.scores = torch.cat(codes), torch.cat(scores)
        if not (self.codes.isfinite().all() and self.scores.isfinite().all()):
            raise UserError(f"run={self.name}: latents or errors are not finite; expected a run that has not diverged")
        measured = statistics.compute()
        has_kl = bool(measured["kl"].any() and measured["kl"].isfinite().all())
        self.weight_name = "KL, nats" if has_kl else "variance"
        weights = (measured["kl"] if has_kl else self.codes.flatten(1).var(0, correction=0)).cpu()
        channels = self.network.latent_shape[0]
        self.weights = weights[: math.prod(self.network.latent_shape)].view(channels, -1).sum(1)

    def _scores(self, batch: Batch, posterior: Posterior) -> Tensor:
        if self.network.marks:
            return smooth(self.network.anomaly_map(batch), self.model.sigma).flatten(1).amax(1)
        return squared_residual(self.network.decode(posterior.mode, batch), batch.target).flatten(1).mean(1)

    @property
    def score_name(self) -> str:
        return "highest mark" if self.network.marks else "squared error"

    @property
    def samples_prior(self) -> bool:
        """Whether there is a prior to sample from."""
        return self.network.generates and self.network.is_variational

    def describe(self) -> dict[str, Any]:
        """What the page needs to know once, plain values."""
        lows, highs = self._range(self.codes.flatten(2) if self.is_map else self.codes[..., None])
        mean_lows, mean_highs = self._range(self.coordinates(self.codes, None)[..., None])
        dimensions = [
            {"dim": d, "weight": float(self.weights[d]), "cell": [lows[d], highs[d]],
             "all": [mean_lows[d], mean_highs[d]]}
            for d in self.weights.argsort(descending=True).tolist()
        ]  # fmt: skip
        return {
            "name": self.name, "kind": type(self.network).__name__, "latent": list(self.network.latent_shape),
            "weight_name": self.weight_name, "dimensions": dimensions, "generates": self.network.generates,
            "samples": self.samples_prior, "num_classes": self.network.num_classes,
            "score_name": self.score_name, "scores": [round(s, 6) for s in self.scores.tolist()],
        }  # fmt: skip

    def _range(self, values: Tensor) -> tuple[list[float], list[float]]:
        """Least and greatest value of each channel of (N, C, K)."""
        low, high = values[:, : len(self.weights)].transpose(0, 1).flatten(1).aminmax(dim=1)
        return low.tolist(), high.tolist()

    # Latents

    def coordinates(self, codes: Tensor, cell: tuple[int, int] | None) -> Tensor:
        """Coordinates (N, D) of latents: of a map the channels at a cell, or their means over all cells.

        Raises:
            UserError: If there is no such cell.
        """
        channels = len(self.weights)
        if not self.is_map:
            return codes[:, :channels]
        if cell is None:
            return codes[:, :channels].mean((2, 3))
        self._check(0, cell)
        return codes[:, :channels, cell[0], cell[1]]

    def _check(self, dimension: int, cell: tuple[int, int] | None) -> None:
        size = self.network.latent_shape
        if dimension >= size[0]:
            raise UserError(f"dimension {dimension}: this latent has {size[0]}")
        if cell is not None and (not self.is_map or cell[0] >= size[1] or cell[1] >= size[2]):
            raise UserError(f"cell {cell[0]}, {cell[1]}: the latent has the shape {'x'.join(map(str, size))}")

    def code(self, recipe: Recipe) -> Tensor:
        """The latents (1, *latent_shape) of a recipe."""
        code = self.encoded(recipe).code
        if recipe.edits:
            code = code.clone()
            for key, value in sorted(recipe.edits.items(), key=lambda pair: "@" in pair[0]):
                dimension, _, place = key.partition("@")
                cell = tuple(map(int, place.split("."))) if place else None
                self._check(int(dimension), cell)  # type: ignore[arg-type]
                values = code[:, int(dimension)]
                if cell is not None:
                    values[:, cell[0], cell[1]] = value
                else:
                    values += value - values.mean()
        if recipe.other is not None and recipe.share:
            code = torch.lerp(code, self._end(recipe), recipe.share)
        return code

    def _end(self, recipe: Recipe) -> Tensor:
        """The latents at the end of the path."""
        if not self.network.generates:
            raise UserError(f"a {type(self.network).__name__} decodes with features of its input: it has no path")
        assert recipe.other is not None
        return self.encoded(recipe.model_copy(update={"image": recipe.other})).code

    # Images

    def encoded(self, recipe: Recipe) -> Encoded:
        """The image of a recipe, with its latents before any change.

        Raises:
            UserError: If the model has not that class, or there is no such image or corruption.
        """
        classes = self.network.num_classes
        if classes and recipe.label is not None and recipe.label >= classes:
            raise UserError(f"class {recipe.label}: expected 0 to {classes - 1}")
        key = (recipe.image, recipe.corruption, recipe.strength, recipe.noise, recipe.label)
        if key not in self._encoded:
            made = self._sampled(recipe) if recipe.image.startswith("prior/") else self._encode(recipe)
            self._encoded[key] = made
            if len(self._encoded) > CACHED:
                self._encoded.popitem(last=False)
        return self._encoded[key]

    def _encode(self, recipe: Recipe) -> Encoded:
        batch = self.gallery.image(recipe.image)
        if recipe.corruption == "none":
            batch = batch._replace(input=batch.target)
        elif recipe.corruption != "run":
            kind = adjustable(recipe.corruption)
            rng = IndexedRandom(recipe.noise, batch.indices)
            batch = batch._replace(input=kind.make(kind.number(recipe.strength))(batch.target, rng))
        batch = self._ready(batch, recipe.label)
        posterior = self.network.encode(batch)
        return Encoded(batch, posterior, posterior.mode)

    def _ready(self, batch: Batch, label: int | None = None) -> Batch:
        """The batch with classes, for a conditional model, and what encoder and decoder share.

        An image without a class is encoded as one of class `label`, or of class 0.
        """
        if not self.network.num_classes:
            return self.network.prepare(batch._replace(label=None))
        own = batch.label if batch.label is not None else torch.full_like(batch.indices, label or 0)
        return self.network.prepare(batch._replace(label=own))

    def _sampled(self, recipe: Recipe) -> Encoded:
        """A sample of the prior: the image is its decoding."""
        if not self.samples_prior:
            raise UserError(f"a {type(self.network).__name__} has no prior to sample from")
        seed, number = map(int, recipe.image.split("/")[1:])
        places = torch.tensor([number], device=self.model.device)
        code = self.network.prior.sample(
            torch.empty(1, *self.network.latent_shape, device=self.model.device), IndexedRandom(seed, places)
        )
        classes = self.network.num_classes
        label = places % classes if classes else None
        if classes and recipe.label is not None:
            label = torch.full_like(places, recipe.label)
        x = self.network.generate(code, label)
        batch = Batch(x, x, places, IndexedRandom(0, places), label)
        return Encoded(batch, self.network.encode(batch), code)

    def _decode(self, codes: Tensor, recipe: Recipe) -> Tensor:
        """Images (N, C, H, W) of latents, as the image of a recipe and of its class."""
        batch, classes = self.encoded(recipe).batch, self.network.num_classes
        if classes and recipe.label is not None:
            batch = batch._replace(label=torch.full_like(batch.indices, recipe.label))
        if len(codes) > 1:
            batch = batch._replace(label=None if batch.label is None else batch.label.expand(len(codes)))
        return self.network.decode(codes, batch)

    @torch.no_grad()
    def view(self, recipe: Recipe) -> dict[str, Any]:
        """What no slider changes: pictures by name, class and KL of the image, the number of its corruption."""
        encoded, number = self.encoded(recipe), None
        if recipe.corruption not in ("run", "none") and not recipe.image.startswith("prior/"):
            kind = adjustable(recipe.corruption)
            number = f"{kind.quantity} {kind.number(recipe.strength):.3g}"
        kl = float(encoded.posterior.kl_effective) if self.network.is_variational else math.inf
        label = encoded.batch.label if self.network.num_classes else None
        return {
            "layers": {row.label: address(row) for row in self.rows(recipe)},
            "label": None if label is None else int(label),
            "kl": kl if math.isfinite(kl) else None,
            "corruption": number,
        }

    @torch.no_grad()
    def rows(self, recipe: Recipe) -> list[Row]:
        """Pictures of the image that no slider changes: original, input, reconstruction, error, maps."""
        encoded = self.encoded(recipe)
        if not encoded.rows:
            batch, network = encoded.batch, self.network
            x_hat = network.decode(encoded.posterior.mode, batch)
            rows = list(reconstruction_rows(network, batch, encoded.posterior, x_hat))
            if network.marks or self.model.domain == "fabric":
                heat = smooth(network.anomaly_map(batch), self.model.sigma)
                shown = heat.sigmoid() if network.marks else heat / heat.max().clamp_min(1e-12)  # as predict draws it
                scale = "0 to 1" if network.marks else "scaled per image"
                rows.append(Row(f"anomaly map, {scale}", shown, "inferno"))
            if batch.mask is not None and (batch.mask == 1).any():
                rows.append(Row("defects outlined", outlined(batch.target, batch.mask)))
            encoded.rows = rows
        return encoded.rows

    @torch.no_grad()
    def decoded(self, recipe: Recipe) -> dict[str, Any]:
        """The decoded image of a recipe, its error and its PSNR in dB, and the values of the sliders."""
        code = self.code(recipe)
        x_hat, batch = self._decode(code, recipe), self.encoded(recipe).batch
        squared = float(((x_hat - batch.target) ** 2).mean())
        start = self.code(recipe.model_copy(update={"share": 0.0}))
        return {
            "decoded": address(Row("", x_hat)),
            "error": address(error_row(batch, x_hat)),
            "psnr": -10 * math.log10(squared) if squared > 0 else None,
            "values": self._plain(start, recipe.cell)[0],
            "place": self._plain(code, recipe.cell)[0],
        }

    def _plain(self, codes: Tensor, cell: tuple[int, int] | None) -> list[list[float]]:
        """Coordinates of latents, in short."""
        return [[round(value, 4) for value in row] for row in self.coordinates(codes, cell).tolist()]

    @torch.no_grad()
    def moved(self, recipe: Recipe) -> tuple[Row, Row]:
        """The decoded image of a recipe, and its error."""
        x_hat = self._decode(self.code(recipe), recipe)
        error = error_row(self.encoded(recipe).batch, x_hat)
        return Row("decoded", x_hat), error._replace(label=f"{error.label}\nof the decoded image")

    @torch.no_grad()
    def path(self, recipe: Recipe) -> Tensor:
        """Images (STEPS, C, H, W) between the latents of a recipe and those of its other image."""
        start = self.code(recipe.model_copy(update={"share": 0.0}))
        share = torch.linspace(0, 1, STEPS, device=start.device).view(-1, *[1] * (start.dim() - 1))
        return self._decode(torch.lerp(start, self._end(recipe), share), recipe)

    @torch.no_grad()
    def samples(self, seed: int, label: int | None) -> Tensor:
        """Images (SAMPLES, C, H, W) of the prior; number n is the image `prior/<seed>/<n>`."""
        return self.model.sample(SAMPLES, label, seed)

    def plane(self, x: int, y: int, cell: tuple[int, int] | None) -> dict[str, list[float]]:
        """Two coordinates of all images of the gallery."""
        self._check(max(x, y), None)
        places = self.coordinates(self.codes, cell)
        return {name: [round(value, 4) for value in places[:, d].tolist()] for name, d in (("x", x), ("y", y))}
