"""Which package may import which, and what must not import torch."""

import ast
import subprocess
import sys

import pytest

from saaae.cli.console import COMMANDS
from tests.conftest import ROOT

BASE = {"ranges", "errors", "atomic", "rng", "types"}
SCIENCE = {"layers", "networks", "posteriors", "objectives", "metrics", "data", "models"}
MAY_IMPORT = {
    "ranges": set(),
    "errors": set(),
    "atomic": {"errors"},
    "signals": set(),
    "rng": set(),
    "types": {"rng"},
    "layers": BASE,
    "networks": BASE | {"layers"},
    "posteriors": BASE | {"layers"},
    "objectives": BASE | {"posteriors"},
    "metrics": BASE,
    "data": BASE,
    "models": BASE | {"layers", "networks", "posteriors", "objectives", "metrics"},
    "visualization": BASE | {"metrics", "data", "models"},
    "callbacks": BASE | {"metrics", "data", "models", "visualization", "signals"},
    "config": {"ranges", "errors", "metrics"},
    "runs": BASE | {"config", "signals", "data", "models"},
    "evaluation": BASE | SCIENCE | {"visualization", "callbacks", "config", "runs"},
    "training": BASE | SCIENCE | {"callbacks", "config", "runs", "evaluation", "signals"},
    "sweeps": BASE | {"metrics", "visualization", "config", "runs"},
    "inference": BASE | SCIENCE | {"config", "runs", "evaluation", "training", "visualization"},
    "explore": BASE | {"data", "metrics", "models", "inference", "visualization"},
    "cli": BASE | SCIENCE | {"config", "runs", "evaluation", "training", "inference", "explore", "sweeps", "signals"},
    "__main__": {"cli"},
    "plugins": BASE | {"config", "runs", "training"},
}
"""The packages from the bottom up: config -> runs -> evaluation -> training -> inference -> cli, config -> runs ->
sweeps -> cli, inference -> explore -> cli."""
TORCH = {"torch", "numpy"}
DATA = {"torchvision", "PIL", "tifffile", "filelock", "platformdirs", "lightning", "fsspec", "tqdm"}
CONFIG = {"hydra", "omegaconf"}
OUTSIDE = {
    "ranges": {"annotated_types"},
    "errors": set(),
    "atomic": set(),
    "signals": set(),
    "rng": TORCH,
    "types": TORCH,
    "layers": TORCH,
    "networks": TORCH,
    "posteriors": TORCH,
    "objectives": TORCH,
    "metrics": TORCH | {"torchmetrics", "scipy", "constriction"},
    "data": TORCH | DATA,
    "models": TORCH | {"torchmetrics", "lightning"},
    "visualization": TORCH | {"lightning", "matplotlib", "PIL"},
    "callbacks": TORCH | {"torchmetrics", "lightning", "tqdm"},
    "config": CONFIG | {"pydantic", "annotated_types", "yaml"},
    "runs": TORCH | CONFIG | {"filelock", "yaml", "safetensors"},
    "evaluation": TORCH | CONFIG | {"lightning", "torchvision"},
    "training": TORCH | CONFIG | {"lightning", "optuna", "sqlalchemy"},
    "sweeps": TORCH | CONFIG | {"matplotlib", "yaml", "jinja2", "markupsafe"},
    "inference": TORCH | CONFIG | DATA | {"matplotlib", "safetensors", "scipy", "onnxruntime", "huggingface_hub"},
    "explore": TORCH | {"PIL", "pydantic", "starlette", "uvicorn"},
    "cli": CONFIG | {"yaml"},
    "__main__": set(),
    "plugins": CONFIG | {"filelock", "optuna"},
}
FILES = sorted((ROOT / "saaae").rglob("*.py"))


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (
                f"{node.module}.{alias.name}" if node.module == "saaae" else node.module for alias in node.names
            )


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_only_point_up_the_list(path):
    package = path.relative_to(ROOT / "saaae").parts[0].removesuffix(".py")
    if package == "__init__":
        return
    for module in imports(path):
        top, *rest = module.split(".")
        if top == "saaae":
            part = rest[0] if rest else next(iter(BASE))
            assert part == package or part in MAY_IMPORT[package], f"{path.name} imports {module}"
        elif top not in sys.stdlib_module_names:
            assert top in OUTSIDE[package], f"{path.name} imports {module}"


def test_the_entry_points_are_short():
    for name in ("train.py", "evaluate.py"):
        assert len((ROOT / name).read_text().splitlines()) <= 20


def test_handling_the_command_line_imports_no_torch():
    heavy = "[m for m in ('torch', 'lightning', 'numpy') if m in sys.modules]"
    modules = ", ".join(["saaae.cli.train", "saaae.cli.evaluate", "saaae.cli.console", *COMMANDS.values()])
    code = f"import sys, saaae, {modules}; print({heavy})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "[]"


def test_imports_have_no_cycles():
    imported = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): {m for m in imports(path) if m.startswith("saaae.")}
        for path in FILES
    }
    while leaves := [module for module, names in imported.items() if not names & imported.keys()]:
        for module in leaves:
            del imported[module]
    assert not imported, "modules of a circle, or above one"


def test_only_these_folders_contain_code():
    modules = {"ranges.py", "errors.py", "atomic.py", "signals.py", "rng.py", "types.py", "__init__.py", "__main__.py"}
    allowed = modules | MAY_IMPORT.keys()
    assert {p.name for p in (ROOT / "saaae").iterdir() if p.name not in ("__pycache__", "weights")} <= allowed
    assert not list((ROOT / "saaae/weights").rglob("*.py"))
