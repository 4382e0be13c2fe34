"""The documentation: its commands run, its links resolve, and the page of options is current."""

import json
import re
import runpy
import shlex
import subprocess
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT
from tests.data.test_mnist import write_archives

NOTEBOOK = ROOT / "docs" / "tour.ipynb"
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
    NOTEBOOK,
]
SMALL = [
    "threads=1",
    "accelerator=cpu",
    "data.batch_size=4",
    "callbacks=none",
    "trainer.log_every_n_steps=1",
]
"""Overrides added to every training command, so that it takes only seconds."""
DATA = {
    "speckle": ["data.num_train=12", "data.num_val=6", "data.num_test=16", "data.image_size=32"],
    "mnist": ["data.num_val=5"],
    "folder": ["data.image_size=32"],
}
"""Overrides added to training commands on each data set."""
SERVERS = ("tensorboard",)
"""Programs that do not exit by themselves."""


class Block(NamedTuple):
    """A fenced block of a page.

    Attributes:
        page: The page.
        language: Word after the opening fence.
        text: Content.
        reason: Why the block is not run; empty if it is run.
    """

    page: Path
    language: str
    text: str
    reason: str


def blocks(page):
    """All fenced blocks of a page."""
    fenced = r"(?:<!-- not run: ([^>]+) -->\n)?^```(\w*)\n(.*?)^```$"
    return [Block(page, m[2], m[3], m[1] or "") for m in re.finditer(fenced, page.read_text(), re.M | re.S)]


def cells(notebook):
    """The code cells of a notebook."""
    return [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]


def small(words):
    """A training command with few images, epochs, seeds and trials."""
    words = [re.sub(r"^(trainer\.max_epochs)=(\d+)$", lambda m: f"{m[1]}={max(1, int(m[2]) // 10)}", w) for w in words]
    if any(word.startswith("resume=") for word in words):
        return words
    value = dict(word.partition("=")[::2] for word in words)
    words = ["seed=0,1" if word.startswith("seed=") else word for word in words]
    words += [*SMALL, *DATA[value.get("data", "speckle")]]
    words += [] if "trainer.max_epochs" in value else ["trainer.max_epochs=1"]
    words += ["model.encoder.widths=[8,8]"] if set(value.get("model", "saaae").split(",")) <= {"vae", "saaae"} else []
    return words + (["hydra.sweeper.n_trials=2"] if "hydra/sweeper" in value else [])


class Reader:
    """Follows the instructions of a page in a separate folder.

    Args:
        folder: The folder.
        zygote: Starts the project's commands.
    """

    def __init__(self, folder, zygote):
        self.folder, self.zygote = folder, zygote
        self.names = {"__name__": "page"}

    def follow(self, block):
        """Runs a block, or writes the file that its first line names."""
        named = re.match(r"# (\S+\.(?:py|yaml))\n", block.text)
        if named:
            (self.folder / named[1]).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / named[1]).write_text(block.text.removeprefix(named[0]))
        elif block.language == "python":
            exec(compile(block.text, str(block.page), "exec"), self.names)
        elif block.language == "bash":
            for line in block.text.splitlines():
                self.run(line)

    def run(self, line):
        """Runs a command line."""
        words = shlex.split(line, comments=True)
        environment = {}
        while words and re.match(r"[A-Z_]+=", words[0]):
            name, _, value = words.pop(0).partition("=")
            environment[name] = value
        if not words or words[0] in SERVERS:
            return
        if words[0] == "saaae":  # the console script, which need not be installed
            words = ["python", "saaae/__main__.py", *words[1:]]
        if words[0] != "python":
            subprocess.run(words, check=True, cwd=self.folder)
            return
        script, *arguments = words[1:]
        arguments = small(arguments) if script == "train.py" else arguments
        status, printed = self.zygote.run(self.folder, *arguments, script=script, environment=environment)
        assert status == 0, f"{line}\n{shlex.join(arguments)}\n{printed}"


@pytest.fixture
def reader(tmp_path, zygote, monkeypatch):
    """A folder with the images and data sets that the pages use."""
    write_archives(tmp_path / "data" / "mnist")
    images = tmp_path / "path" / "to" / "images"
    images.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (10, 70, 50, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(images / f"{number}.png")
    for number, image in enumerate(pixels):
        folder = tmp_path / "path" / "to" / "pets" / ("cats", "dogs")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number}.png")
    scenes = tmp_path / "path" / "to" / "scenes"
    scenes.mkdir()
    Image.fromarray(pixels[0, ..., 0]).save(scenes / "scene.png")
    (tmp_path / "conf").symlink_to(ROOT / "conf")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAAAE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return Reader(tmp_path, zygote)


@pytest.mark.parametrize("page", ["README.md", "docs/cookbook.md"])
def test_the_commands_of_a_page_run_in_their_order(reader, page):
    for block in blocks(ROOT / page):
        if not block.reason:
            reader.follow(block)


def test_the_readme_fits_on_two_screens():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_the_page_of_options_is_current():
    made = runpy.run_path(str(ROOT / "docs" / "make_options.py"))["page"]()
    assert (ROOT / "docs" / "options.md").read_text() == made, "run python docs/make_options.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_between_files_resolve(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        target, _, heading = link.partition("#")
        if "://" not in link:
            assert (page.parent / target).exists() if target else heading, f"{page.name}: {link}"


def test_the_readme_links_to_every_page():
    readme = (ROOT / "README.md").read_text()
    for page in PAGES[1:]:
        assert f"({page.relative_to(ROOT)})" in readme, page.name


def test_pictures_are_small():
    for picture in (ROOT / "docs" / "images").iterdir():
        assert picture.suffix == ".png"
        assert picture.stat().st_size <= 200_000


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_no_page_names_a_machine(page):
    text = page.read_text()
    hosts = re.findall(r"https?://\S+/simple\b|\bindex-url\b|\b(?:artifactory|nexus|devpi)[\w.-]*", text)
    paths = re.findall(r"(?<![\w.:/])/(?:home|root|work|tmp|mnt|usr|Users)/\S+", text)
    assert hosts + paths == []


def test_commands_of_all_pages_name_scripts_that_exist():
    for page in PAGES:
        for script in re.findall(r"python ((?:benchmarks|docs)/\w+\.py|\w+\.py)", page.read_text()):
            assert (ROOT / script).is_file(), f"{page.name}: {script}"


def test_the_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    monkeypatch.delenv("SAAAE_DATA_DIR", raising=False)
    names = {"__name__": "notebook"}
    for number, cell in enumerate(cells(NOTEBOOK)):
        exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
    assert names["run"].state == "done"
    assert names["run"].test["ssim"] > 0.1  # it shows something
    assert len(plt.get_fignums()) == 3
    plt.close("all")


def test_the_notebook_is_stored_without_outputs():
    for cell in cells(NOTEBOOK):
        assert (cell["outputs"], cell["execution_count"]) == ([], None)
