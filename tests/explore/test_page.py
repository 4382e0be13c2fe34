"""The page in a real browser: every control is moved, the pictures change, and the console stays empty."""

import shutil
import socket
import threading
import time

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT, TINY
from tests.models.test_models import DIGITS

pytest.importorskip("playwright", reason="needs the extra `dev`")
pytest.importorskip("uvicorn", reason="needs the extra `explore`")

import uvicorn
from playwright import sync_api

from saaae.explore.load import load

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium here: apt-get install chromium")
SECONDS = 60
"""Longest wait for a change; a page that answers waits for milliseconds."""
TOP, ORIGINAL = ".run:first-child .stack img:nth-of-type(2)", ".run:first-child .stack img:nth-of-type(1)"


class Served:
    """A page that is served to a browser."""

    def __init__(self, browser, page, width=1400):
        listening = socket.create_server(("127.0.0.1", 0))
        self.server = uvicorn.Server(uvicorn.Config(page.application("secret"), log_level="error", lifespan="off"))
        self.thread = threading.Thread(target=self.server.run, args=([listening],))
        self.thread.start()
        context = browser.new_context(viewport={"width": width, "height": 900})
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        context.set_default_timeout(SECONDS * 1000)
        self.said, self.tab = [], context.new_page()
        self.tab.on("console", lambda message: self.said.append(message.text))
        self.tab.on("pageerror", lambda error: self.said.append(str(error)))
        self.tab.goto(f"http://127.0.0.1:{listening.getsockname()[1]}/secret/")
        self.tab.locator("#layers button").first.wait_for()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.server.should_exit = True
        self.tab.context.close()
        self.thread.join()

    def state(self, selector):
        """What an element shows: the address of an image, the drawing of a canvas, or its text."""
        read = (
            "e => e.tagName === 'IMG' ? e.src + e.style.opacity : e.tagName === 'CANVAS' ? e.toDataURL() : e.innerText"
        )
        return self.tab.locator(selector).first.evaluate(read)

    def changes(self, selector, action, *arguments, **options):
        """Does something, and waits until an element shows something else; returns that."""
        before = self.state(selector)
        action(*arguments, **options)
        return self.until(lambda: (now := self.state(selector)) != before and now, f"{selector} does not change")

    def until(self, true, message):
        end = time.monotonic() + SECONDS
        while not (found := true()):
            assert time.monotonic() < end, message
            self.tab.wait_for_timeout(20)
        return found

    def slide(self, selector, share):
        """Moves a slider to a share of its range."""
        change = "(e, share) => { e.value = +e.min + share * (e.max - e.min); e.dispatchEvent(new Event('input')); }"
        self.tab.locator(selector).first.evaluate(change, share)

    def push(self, selector):
        """Moves a slider to the end that is farther."""
        change = "e => { e.value = e.max - e.value > e.value - e.min ? e.max : e.min; "
        self.tab.locator(selector).first.evaluate(change + "e.dispatchEvent(new Event('input')); }")

    def type(self, selector, text):
        self.tab.locator(selector).fill(text)

    def click(self, selector, **options):
        self.tab.locator(selector).first.click(**options)

    def choose(self, selector, value=None, **options):
        self.tab.locator(selector).select_option(value, **options)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"], timeout=3 * SECONDS * 1000)


@pytest.fixture
def two_runs(stored_run):
    map_run = stored_run(*TINY, "model=saaae", "model.latent_channels=12", name="map")
    page = load([map_run, stored_run(*TINY, "model=vae", "model.latent_dim=3", name="vector")], count=6)
    for explored in page.models:
        explored.codes *= 100  # sliders have the range of these: untrained latents hardly differ
    return page


def test_every_control_changes_what_is_shown(browser, two_runs, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)).save(tmp_path / "own.png")
    with Served(browser, two_runs) as page:
        page.changes(ORIGINAL, page.click, "#thumbnails button:nth-child(3)")
        page.changes(TOP, page.choose, "#corruption", "gaussian")
        page.changes(TOP, page.slide, "#strength", 0.9)
        page.changes(TOP, page.type, "#noise", "5")
        still = page.changes(TOP, page.choose, "#corruption", "none")
        page.changes(TOP, page.push, ".slider input")
        page.until(lambda: page.state(TOP) != still, "the slider moves nothing")
        page.changes(TOP, page.click, ".slider.moved button")
        page.until(lambda: page.state(TOP) == still, "the move is not undone")
        for number in (2, 3, 4, 6):
            page.changes(TOP, page.click, f"#layers button:nth-child({number})")
        page.changes(TOP, page.slide, "#opacity", 0.5)
        page.click("#layers button:nth-child(1)")
        page.changes("#cell-note", page.click, ".cells", position={"x": 5, "y": 5})
        page.changes(TOP, page.push, ".slider input")
        page.changes("#cell-note", page.tab.locator(".cells").press, "ArrowDown")
        page.changes("#cell-note", page.tab.locator(".cells").press, "Escape")
        page.changes(TOP, page.click, "#unmove")
        page.changes("#sliders", page.click, "#more")
        # the path
        page.click("[name=target][value=other]")
        page.click("#thumbnails button:nth-child(5)")
        page.tab.locator(".path:first-child button").nth(8).wait_for()
        page.changes(TOP, page.slide, "#share", 0.7)
        page.changes(TOP, page.click, ".path:first-child button:nth-child(9)")
        page.click("[name=target][value=image]")
        # samples
        page.changes("#samples img", page.type, "#seed", "3")
        page.changes("#samples img", page.click, "#next")
        page.changes(ORIGINAL, page.click, "#samples button:nth-child(4)")
        # the plane
        page.changes("#plane", page.click, "#pictures")
        page.changes("#plane", page.choose, "#x", index=3)
        page.changes("#plane", page.choose, "#y", index=4)
        page.tab.locator("#plane").hover(position={"x": 120, "y": 90})
        page.tab.locator("#pointer-image").wait_for()
        page.changes("#pointer-image", lambda: page.tab.locator("#plane").hover(position={"x": 250, "y": 200}))
        page.changes(TOP, page.click, "#plane", position={"x": 100, "y": 100})
        page.changes(TOP, page.tab.locator("#plane").press, "ArrowUp")
        page.choose("#click", "choose")
        page.changes(ORIGINAL, page.click, "#plane", position={"x": 200, "y": 200})
        # the other run
        page.changes("#sliders", page.click, "[name=which][value='1']")
        second = ".run:nth-child(2) .stack img:nth-of-type(2)"
        page.changes(second, page.push, ".slider input")
        # an image of one's own, the link, the download
        page.changes(second, page.tab.locator("#file").set_input_files, tmp_path / "own.png")
        page.until(lambda: "your image" in page.state(".run figcaption"), "the image is not taken")
        moved = page.changes(second, page.push, ".slider input")
        page.click("#link")
        link = page.until(lambda: page.tab.evaluate("navigator.clipboard.readText()"), "no link")
        page.changes(second, page.click, "#reset")
        page.tab.goto("about:blank")
        page.tab.goto(link)
        page.until(
            lambda: page.tab.locator(second).count() and page.state(second) == moved, "the link shows another state"
        )
        with page.tab.expect_download() as download:
            page.click("#download")
        assert Image.open(download.value.path()).width > 200
        assert page.state("#status") == ""
        assert page.said == []


def test_a_class_is_chosen_and_the_page_fits_a_narrow_window(browser, stored_run, tmp_path):
    Image.fromarray(np.full((28, 28), 90, np.uint8)).save(tmp_path / "a.png")
    digits = ["data=mnist", f"data.root={ROOT}", "model=cvae_onehot", *DIGITS, "accelerator=cpu"]
    with Served(browser, load([stored_run(*digits)], images=str(tmp_path / "a.png")), 400) as page:
        page.changes(TOP, page.choose, "#label", "4")
        page.changes("#samples img", page.choose, "#label", "5")
        assert page.tab.evaluate("document.documentElement.scrollWidth") == 400
        assert page.said == []
