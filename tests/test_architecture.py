"""The house: which package may import which, and what stays free of torch."""

import ast
import subprocess
import sys

import pytest

from tests.conftest import ROOT

BASE = {"ranges", "errors", "atomic", "noise", "types"}
MAY_IMPORT = {
    "ranges": set(),
    "errors": set(),
    "atomic": set(),
    "noise": set(),
    "types": {"noise"},
    "layers": BASE,
    "networks": BASE | {"layers"},
    "posteriors": BASE | {"layers"},
    "objectives": BASE | {"posteriors"},
    "metrics": BASE,
    "data": BASE,
    "models": BASE | {"layers", "networks", "posteriors", "objectives", "metrics"},
    "callbacks": BASE | {"metrics"},
    "runs": BASE | {"layers", "networks", "posteriors", "objectives", "metrics", "data", "models", "callbacks"},
    "plugins": BASE | {"runs"},
}
TORCH = {"torch", "numpy"}
DATA = {"torchvision", "PIL", "tifffile", "filelock", "platformdirs", "lightning", "litdata", "botocore"}
CONFIG = {"hydra", "omegaconf", "optuna"}
OUTSIDE = {
    "ranges": {"annotated_types"},
    "errors": set(),
    "atomic": set(),
    "noise": TORCH,
    "types": TORCH,
    "layers": TORCH,
    "networks": TORCH,
    "posteriors": TORCH,
    "objectives": TORCH,
    "metrics": TORCH | {"torchmetrics", "scipy", "constriction"},
    "data": TORCH | DATA,
    "models": TORCH | {"torchmetrics", "lightning"},
    "callbacks": TORCH | {"torchmetrics", "lightning", "matplotlib", "PIL", "tqdm"},
    "runs": TORCH
    | DATA
    | CONFIG
    | {"torchmetrics", "matplotlib", "yaml", "pydantic", "annotated_types", "sqlalchemy", "jinja2", "markupsafe"},
    "plugins": CONFIG | {"filelock"},
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
def test_imports_only_point_up_the_house(path):
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


def test_the_doors_are_thin():
    for name in ("train.py", "evaluate.py"):
        assert len((ROOT / name).read_text().splitlines()) <= 20


def test_answering_the_command_line_imports_no_torch():
    heavy = "[m for m in ('torch', 'lightning', 'numpy') if m in sys.modules]"
    code = f"import sys, saaae.runs.train, saaae.runs.evaluate; print({heavy})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "[]"


def test_only_these_folders_hold_code():
    allowed = {"ranges.py", "errors.py", "atomic.py", "noise.py", "types.py", "__init__.py", *MAY_IMPORT}
    assert {p.name for p in (ROOT / "saaae").iterdir() if p.name != "__pycache__"} <= allowed
