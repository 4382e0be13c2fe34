"""Which models can be exported: python benchmarks/export.py

For each model of conf/model, and for further posteriors and layers of attention: the largest difference of a pixel
between the torch model and its ONNX graph and torch.export program on eight random images, one of them alone and, where
sizes are free, two larger ones, and the size of the file. Weights are random, gains that start at 0 included.
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from hydra import compose, initialize_config_dir

from saaae.config.folder import config_folder
from saaae.config.resolvers import register_resolvers
from saaae.config.settings import plain
from saaae.errors import UserError
from saaae.inference.export import NUM_CHECKED, Example, write_graph
from saaae.inference.model import TrainedModel
from saaae.inference.source import Source
from saaae.runs.run import resolve_config
from saaae.training.build import instantiated

MAP = "model.latent_channels=8"
ROWS = {
    "vae, vector": ["model=vae", "model.latent_dim=32"],
    "vae, map": ["model=vae", MAP],
    "saaae, vector": ["model=saaae", "model.latent_dim=32"],
    "saaae, map": ["model=saaae", MAP],
    "saaae_prior, vector": ["model=saaae_prior", "model.latent_dim=32"],
    "saaae_prior, map": ["model=saaae_prior", MAP],
    "cbam_ae": ["model=cbam_ae"],
    "despeckler": ["model=despeckler", "data.target=clean"],
    "denoising_vae": ["model=denoising_vae", "data=mnist", "corruption=blur"],
    "denoising_vae, skip path": ["experiment=denoising_skip"],
    "cvae_onehot": ["model=cvae_onehot", "data=mnist"],
    "cvae_embedding": ["model=cvae_embedding", "data=mnist"],
    "aitex_vae": ["model=aitex_vae"],
    "fabric_unet": ["model=fabric_unet"],
    "vae, map, low_rank": ["model=vae", MAP, "posterior=low_rank"],
    "vae, vector, full_covariance": ["model=vae", "model.latent_dim=32", "posterior=full_covariance"],
    **{
        f"vae, map, attention={name}": ["model=vae", MAP, f"attention={name}"]
        for name in ("cbam", "self", "self_local", "self_axial", "self_linear")
    },
}
"""Overrides of each row."""


def model_of(words: list[str]) -> TrainedModel:
    """The model of a configuration with random weights."""
    cfg = resolve_config(compose("train", [*words, "accelerator=cpu"]))
    torch.manual_seed(0)
    network = instantiated(cfg.model)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return TrainedModel(network, Source(Path("model"), cfg, network.state_dict(), plain(cfg)))


def example_of(model: TrainedModel) -> Example:
    """Random images, and classes in turn."""
    images = torch.rand(NUM_CHECKED, model.channels, model.image_size, model.image_size)
    label = torch.arange(NUM_CHECKED) % model.network.num_classes if model.network.num_classes else None
    return Example(images, label, "random images")


def cells(words: list[str], folder: Path) -> list[str]:
    """Which images an export takes; difference and MB of each form."""
    model = model_of(words)
    found, takes = [], "-"
    for suffix in (".onnx", ".pt2"):
        try:
            written = write_graph(model, example_of(model), folder / f"{len(list(folder.iterdir()))}{suffix}")
            takes = f"any multiple of {model.stride}" if "multiples" in written.takes else f"{model.image_size}"
            found += [takes, f"{written.difference:.0e}", f"{written.size / 2**20:.1f}"]
        except UserError as error:
            found += ["-", f"no: {error}", ""]
    parameters = sum(p.numel() for p in model.network.parameters())
    return [f"{parameters / 1e6:.2f}", *found]


def main(rows: dict[str, list[str]]) -> None:
    """Prints the table."""
    torch.set_num_threads(1)
    register_resolvers()
    columns = ["model", "million parameters"]
    columns += [f"{form}: {what}" for form in ("ONNX", "torch.export") for what in ("side", "difference", "MB")]
    print("| " + " | ".join(columns) + " |")
    print("|---" * len(columns) + "|")
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        for name, words in rows.items():
            with tempfile.TemporaryDirectory() as folder:
                print(f"| {name} | " + " | ".join(cells(words, Path(folder))) + " |", flush=True)


if __name__ == "__main__":
    main(ROWS)
