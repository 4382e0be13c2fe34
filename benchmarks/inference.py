"""Speed of a trained model and of its exported graphs: python benchmarks/inference.py [rounds] [threads]

For three models at the image size that they are trained at, in batches of 1 and of 32: images per second of
`saaae.load(...).reconstruct`, of the ONNX graph in ONNX Runtime (needs the extra onnx) and of the torch.export program,
all with the same number of threads, one by default. The three alternate in each round; the table has the median
rates, and medians and ranges of the ratios within a round. Weights are random: they change no speed.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import onnxruntime
import torch
from export import example_of, model_of
from hydra import initialize_config_dir

from saaae.config.folder import config_folder
from saaae.config.resolvers import register_resolvers
from saaae.inference.export import write_graph
from saaae.inference.model import TrainedModel

ROWS = {
    "vae, 28 pixels": ["model=vae", "data=mnist", "model.latent_dim=32"],
    "saaae, 64 pixels": ["model=saaae"],
    "despeckler, 64 pixels": ["experiment=despeckle"],
}
"""Overrides of each model."""
BATCHES = (1, 32)
SECONDS = 0.5
"""Shortest time of a measurement."""

Run = Callable[[torch.Tensor], object]


def runs_of(model: TrainedModel, folder: Path, threads: int) -> dict[str, Run]:
    """What reconstructs images, by its name in the table."""
    onnx, program = folder / "model.onnx", folder / "model.pt2"
    for path in (onnx, program):
        write_graph(model, example_of(model), path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(str(onnx), options, providers=["CPUExecutionProvider"])
    module = torch.export.load(program).module()
    return {
        "saaae.load": model.reconstruct,
        "ONNX Runtime": lambda images: session.run(None, {"images": images.numpy()}),
        "torch.export": torch.no_grad()(module),
    }


def rate(run: Run, images: torch.Tensor) -> float:
    """Images per second."""
    calls, start = 0, time.perf_counter()
    while (seconds := time.perf_counter() - start) < SECONDS or not calls:
        run(images)
        calls += 1
    return calls * len(images) / seconds


def cells(runs: dict[str, Run], images: torch.Tensor, rounds: int) -> list[str]:
    """Median rate of each form, and its ratio to the first."""
    for run in runs.values():
        run(images)
    rates = [{name: rate(run, images) for name, run in runs.items()} for _ in range(rounds)]
    first, *others = runs
    found = [f"{median(each[name] for each in rates):.0f}" for name in runs]
    for name in others:
        ratios = [each[name] / each[first] for each in rates]
        found.append(f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    return found


def main(rounds: int, threads: int = 1, rows: dict[str, list[str]] = ROWS) -> None:
    """Prints the table."""
    torch.set_num_threads(threads)
    register_resolvers()
    forms = ("saaae.load", "ONNX Runtime", "torch.export")
    columns = ["model", "batch", *(f"{form}: images/s" for form in forms), *(f"{form}: ratio" for form in forms[1:])]
    print("| " + " | ".join(columns) + " |")
    print("|---" * len(columns) + "|")
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        models = {name: model_of(words) for name, words in rows.items()}
    for name, model in models.items():
        with tempfile.TemporaryDirectory() as folder:
            runs = runs_of(model, Path(folder), threads)
            for size in BATCHES:
                images = torch.rand(size, model.channels, model.image_size, model.image_size)
                print(f"| {name} | {size} | " + " | ".join(cells(runs, images, rounds)) + " |", flush=True)


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:]]
    main(given[0] if given else 5, given[1] if len(given) > 1 else 1)
