"""The wheel: all that an installed package needs is in it, the options of conf/ too."""

import shutil
import subprocess
import sys
import zipfile

import pytest

from saaae.config import folder
from tests.conftest import CONF, ROOT, output_of


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the content of the wheel, built from a copy of the sources without a network."""
    home = tmp_path_factory.mktemp("wheel")
    for name in ("saaae", "conf"):
        shutil.copytree(ROOT / name, home / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, home)
    code = "from setuptools import build_meta; print(build_meta.build_wheel('wheel'))"
    built = subprocess.run([sys.executable, "-c", code], cwd=home, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (wheel,) = (home / "wheel").glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        content.extractall(home / "installed")
    return home / "installed"


def names(place):
    """Files below a folder, by their path in it."""
    return {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file() and path.suffix != ".pyc"}


def test_the_wheel_holds_the_package_its_options_and_its_weights(installed):
    assert {path.name for path in installed.iterdir() if path.suffix != ".dist-info"} == {"saaae"}
    package = names(installed / "saaae")
    assert {name for name in package if not name.startswith("conf/")} == names(ROOT / "saaae")
    assert names(installed / "saaae" / "conf") == names(CONF)


def test_an_installed_package_finds_its_options(installed, tmp_path):
    code = (
        "import saaae\n"
        "from saaae.config.folder import config_folder\n"
        "print(config_folder())\n"
        "try:\n    saaae.train(['model=vaee'])\n"
        "except saaae.errors.UserError as error:\n    print(error)"
    )
    place, error = output_of(code, tmp_path, installed).splitlines()
    assert place == str(installed / "saaae" / "conf")
    assert error.startswith("model=vaee: no such option; expected one of aitex_vae, cbam_ae, ")
    assert list(tmp_path.iterdir()) == []


def test_the_options_of_a_checkout_are_those_at_its_top(monkeypatch, tmp_path):
    assert folder.config_folder() == CONF
    monkeypatch.setattr(folder, "PACKAGE", tmp_path / "saaae")
    (tmp_path / "saaae" / "conf").mkdir(parents=True)
    (tmp_path / "conf").mkdir()  # of another program, in site-packages
    (tmp_path / "train.py").touch()
    assert folder.config_folder() == tmp_path / "saaae" / "conf"
