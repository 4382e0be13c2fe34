"""Renders a page of tables and pictures with the templates leaderboard.md.j2 and leaderboard.html.j2."""

import base64
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup, escape


class Cell(NamedTuple):
    """A cell of a table: in bold if `strong`, a link if it has an address (relative to the page)."""

    text: str
    href: str = ""
    strong: bool = False


class Section(NamedTuple):
    """A heading, lines of text, a table and a PNG file beside the page; each may be missing."""

    title: str
    lines: Sequence[str] = ()
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str | Cell]] = ()
    picture: Path | None = None


def rendered(suffix: str, title: str, sections: Sequence[Section]) -> str:
    """The page as Markdown (`.md`) with links to the pictures, or as one HTML file (`.html`) that contains them."""
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=suffix == ".html", trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    templates.filters |= {"plain": _plain, "breakable": _breakable, "cell": _cell, "anchor": _anchor, "base64": _base64}
    templates.tests["numeric"] = re.compile(r"[-+]?\d|n/a").match
    return templates.get_template(f"leaderboard{suffix}.j2").render(title=title, sections=sections)


def _cell(value: str | Cell) -> Cell:
    return value if isinstance(value, Cell) else Cell(value)


def _plain(text: str) -> str:
    """Text on one line without characters that Markdown interprets."""
    return re.sub(r"([\\|<>\[\]*`])", r"\\\1", re.sub(r"\s*\n\s*", " ", text))


def _breakable(text: str) -> Markup:
    """Escaped text that a browser may break after separators."""
    return Markup(re.sub("([_,/])", r"\1<wbr>", str(escape(text))))


def _anchor(title: str) -> str:
    return re.sub(r"\W+", "-", title.lower()).strip("-")


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
