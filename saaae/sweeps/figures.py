"""The pictures of a leaderboard: rate and distortion, learning curves, reconstructions side by side."""

import csv
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from textwrap import fill, shorten
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from saaae.atomic import replacing
from saaae.runs.folder import RunFolder
from saaae.sweeps.summary import RunSummary, Variant
from saaae.visualization.mosaic import Row, mosaic, save_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVES = {"val/ssim": "val/ssim", "val/elbo": "val/elbo, nats per image"}

MARKERS = "os^Dv*PX<>ph"


class Curve(NamedTuple):
    """A logged metric of the runs of a variant at the optimizer steps (T,) that they share: values (R, T)."""

    variant: Variant
    steps: NDArray[Any]
    values: NDArray[Any]


class Stored(NamedTuple):
    """The content of reconstructions.npz, images (N, C, H, W), and their positions."""

    of: tuple[Any, ...]
    input: NDArray[np.uint8]
    target: NDArray[np.uint8]
    reconstruction: NDArray[np.uint8]


def save_curves(variants: Sequence[Variant], path: Path) -> Path | None:
    """Writes rate against distortion, and the learning curves; leaves out figures without numbers.

    Returns:
        The path, or None if there is nothing to draw.
    """
    from matplotlib.figure import Figure

    panels: list[Callable[[Axes], None]] = []
    if any(_rate_and_ssim(variant) for variant in variants):
        panels.append(partial(_draw_rate_distortion, variants))
    logged = [(variant, [read_curves(RunFolder(run.folder).curves) for run in variant.runs]) for variant in variants]
    for metric, title in CURVES.items():
        curves = [_shared(variant, [curves[metric] for curves in runs]) for variant, runs in logged]
        if drawn := [curve for curve in curves if curve.steps.size]:
            panels.append(partial(_draw_curves, drawn, title))
    if not panels:
        return None
    figure = Figure(figsize=(5 * len(panels) + 0.5, 4), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, draw in zip(axes, panels, strict=True):
        draw(axis)
        axis.grid(alpha=0.25)
    labels = [shorten(_name(variant), 70, placeholder=" ...") for variant in variants]
    lines = [axes[0].plot([], [], **_style(variant))[0] for variant in variants]
    columns = max(1, int(figure.get_figwidth() / (0.085 * max(map(len, labels)) + 0.8)))
    figure.legend(lines, labels, loc="outside lower center", ncols=min(columns, len(labels)), frameon=False)
    return _save(figure, path)


def read_curves(path: Path) -> dict[str, dict[int, float]]:
    """The finite values in a metrics.csv by optimizer steps made, without a last line that is being written."""
    curves: dict[str, dict[int, float]] = {metric: {} for metric in CURVES}
    lines = path.read_text(errors="replace").splitlines(keepends=True) if path.is_file() else []
    for row in csv.reader(line for line in lines if line.endswith("\n")):
        with suppress(ValueError):  # a damaged line
            if len(row) == 4 and row[2] in curves and math.isfinite(float(row[3])):
                curves[row[2]][int(row[0]) + 1] = float(row[3])
    return curves


def _shared(variant: Variant, curves: list[dict[int, float]]) -> Curve:
    """What the runs that have a curve have measured at the same steps."""
    present = [curve for curve in curves if curve]
    steps = sorted(set(present[0]).intersection(*present)) if present else []
    return Curve(variant, np.array(steps), np.array([[curve[step] for step in steps] for curve in present]))


def _name(variant: Variant) -> str:
    return f"{variant.number}: {variant.label}"


def _style(variant: Variant) -> dict[str, Any]:
    """Ten colours; the markers distinguish twelve variants without them."""
    number = variant.number - 1
    marker, line = MARKERS[number % len(MARKERS)], "-" if number < 10 else "--"
    return {"color": f"C{number % 10}", "marker": marker, "linestyle": line}


def _rate_and_ssim(variant: Variant) -> list[tuple[float, float]]:
    """kl_effective and SSIM of the runs that have both."""
    pairs = ((run.value("kl_effective"), run.value("ssim")) for run in variant.runs)
    return [(rate, ssim) for rate, ssim in pairs if rate is not None and ssim is not None]


def _draw_rate_distortion(variants: Sequence[Variant], axis: "Axes") -> None:
    """A marker a run, and a bigger one at the mean of a variant."""
    for variant in variants:
        if points := _rate_and_ssim(variant):
            rates, ssims = np.array(points).T
            style = {**_style(variant), "linestyle": ""}
            axis.plot(rates, ssims, markersize=5, alpha=0.5, **style)
            axis.plot(rates.mean(), ssims.mean(), markersize=11, markeredgecolor="black", **style)
    axis.set(xlabel="kl_effective, nats per image", ylabel="ssim", title="test: rate and distortion")


def _draw_curves(curves: Sequence[Curve], title: str, axis: "Axes") -> None:
    """Mean over seeds and the band from the lowest to the highest; the first fifth of the steps may lie below."""
    for variant, steps, values in curves:
        style, first = _style(variant), variant.number % 5 / 50
        axis.plot(steps, values.mean(0), linewidth=1.4, markersize=5, markevery=(first, 0.2), **style)
        axis.fill_between(steps, values.min(0), values.max(0), color=style["color"], alpha=0.15, linewidth=0)
    bottom = min(values[:, steps > 0.2 * steps[-1]].min() for _, steps, values in curves)
    top = max(values.max() for _, _, values in curves)
    margin = 0.05 * (top - bottom) or 0.01
    axis.set(xlabel="optimizer steps", ylabel=title, title=title.partition(",")[0])
    axis.set_ylim(bottom - margin, top + margin)


def save_reconstructions(variants: Sequence[Variant], path: Path, most: int = 10) -> Path | None:
    """Writes the same test images, at most `most` of them, as the variants reconstruct them, a row a variant.

    Returns:
        The path, or None if no run has stored reconstructions.
    """
    rows = reconstruction_rows(variants)
    if not rows:
        return None
    labels = [fill(shorten(title, 100, placeholder=" ..."), 32) for title, _ in rows]
    images = [Row(label, images[:most]) for label, (_, images) in zip(labels, rows, strict=True)]
    save_picture(path, mosaic(images, ""))
    return path


def reconstruction_rows(variants: Sequence[Variant]) -> list[tuple[str, NDArray[np.uint8]]]:
    """Titles and images (N, C, H, W): the originals, then what the first run of each variant makes of them.

    An input that is neither the target nor the input above it gets a row of its own. Runs that were tested on other
    images than the first are passed over.
    """
    first = next((stored for variant in variants for run in variant.runs if (stored := _stored(run))), None)
    if first is None:
        return []
    rows, fed = [("original", first.target)], first.target
    for variant in variants:
        same = (stored for run in variant.runs if (stored := _stored(run)) and stored.of == first.of)
        if shown := next(same, None):
            if not np.array_equal(shown.input, fed):
                rows.append(("input", fed := shown.input))
            rows.append((_name(variant), shown.reconstruction))
    return rows


def _stored(run: RunSummary) -> Stored | None:
    path = RunFolder(run.folder).examples
    if not path.is_file():
        return None
    try:
        with np.load(path) as arrays:
            of = (run.task, arrays["index"].tolist(), arrays["target"].shape)
            return Stored(of, arrays["input"], arrays["target"], arrays["reconstruction"])
    except Exception:  # damaged, or not ours: zipfile, zlib and NumPy raise many kinds
        return None


def _save(figure: "Figure", path: Path) -> Path:
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=130)
    return path
