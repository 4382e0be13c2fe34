"""A page of tables and pictures, as Markdown and as one HTML file that needs no other."""

import base64
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

CSS = """
body { font: 14px/1.45 system-ui, sans-serif; color: #222; max-width: 1240px; margin: 24px auto; padding: 0 16px }
h1 { font-size: 22px; overflow-wrap: anywhere } h2 { font-size: 17px; margin: 28px 0 6px } p { margin: 4px 0 }
.wide { overflow-x: auto } table { border-collapse: collapse; margin: 8px 0; font-variant-numeric: tabular-nums }
th, td { padding: 4px 9px; border-bottom: 1px solid #ddd; text-align: right; vertical-align: top }
th { vertical-align: bottom; border-bottom: 2px solid #888; font-weight: 600 }
.text { text-align: left } tbody tr:hover { background: #f4f6f8 }
#warnings { border-left: 4px solid #c60; background: #fff6e8; margin-top: 12px; padding: 0 12px 8px }
#warnings h2 { margin-top: 8px } img { max-width: 100% }
@page { size: A4 landscape; margin: 12mm }
@media print { body { font-size: 9px; margin: 0 } th, td { padding: 2px 4px } tr, img { break-inside: avoid }
  .wide { overflow: visible } img { max-height: 165mm } h2, p { break-after: avoid } a { color: inherit } }
"""


class Cell(NamedTuple):
    """A cell of a table that leads somewhere (an address relative to the page) or stands out."""

    text: str
    href: str = ""
    strong: bool = False


class Section(NamedTuple):
    """A heading, lines of text, a table and a picture that lies beside the page: each where there is one."""

    title: str
    lines: Sequence[str] = ()
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str | Cell]] = ()
    picture: Path | None = None


def markdown(title: str, sections: Sequence[Section]) -> str:
    """The page as Markdown; pictures are links to the files beside it."""
    parts = [f"# {_plain(title)}"]
    for section in sections:
        parts += [f"## {_plain(section.title)}"] * bool(section.title) + [_plain(line) for line in section.lines]
        if section.rows:
            rows = [list(map(_plain, section.header)), ["---"] * len(section.header)]
            rows += [[_marked(cell) for cell in row] for row in section.rows]
            parts.append("\n".join(f"| {' | '.join(row)} |" for row in rows))
        if section.picture:
            parts.append(f"![{_plain(section.title)}]({section.picture.name})")
    return "\n\n".join(parts) + "\n"


def _plain(text: str) -> str:
    """Text on one line in which Markdown finds nothing to mark up."""
    return re.sub(r"([\\|<>\[\]*`])", r"\\\1", re.sub(r"\s*\n\s*", " ", text))


def _marked(cell: str | Cell) -> str:
    cell = _as_cell(cell)
    text = f"**{_plain(cell.text)}**" if cell.strong else _plain(cell.text)
    return f"[{text}]({cell.href})" if cell.href else text


def html(title: str, sections: Sequence[Section]) -> str:
    """The page as HTML, styles and pictures inside, without scripts."""
    name = escape(title)
    body = "\n".join(_section(section) for section in sections)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{name}</title>
<style>{CSS}</style>
</head>
<body>
<h1>{name}</h1>
{body}
</body>
</html>
"""


def _section(section: Section) -> str:
    anchor = re.sub(r"\W+", "-", section.title.lower()).strip("-")
    parts = [f'<section id="{anchor}">'] + [f"<h2>{escape(section.title)}</h2>"] * bool(section.title)
    parts += [f"<p>{escape(line)}</p>" for line in section.lines]
    if section.rows:
        head = "".join(_cell("th", name, cell) for name, cell in zip(section.header, section.rows[0], strict=True))
        parts.append(f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>')
        parts += [f"<tr>{''.join(_cell('td', cell, cell) for cell in row)}</tr>" for row in section.rows]
        parts.append("</tbody></table></div>")
    if section.picture:
        picture = base64.b64encode(section.picture.read_bytes()).decode()
        parts.append(f'<img alt="{escape(section.title)}" src="data:image/png;base64,{picture}">')
    return "\n".join([*parts, "</section>"])


def _cell(tag: str, cell: str | Cell, like: str | Cell) -> str:
    """A cell, aligned as numbers or as text: what `like` is."""
    cell, like = _as_cell(cell), _as_cell(like)
    kind = "" if re.match(r"[-+]?\d|n/a", like.text) and not like.href else ' class="text"'
    text = re.sub("([_,/])", r"\1<wbr>", escape(cell.text))
    text = f"<b>{text}</b>" if cell.strong else text
    text = f'<a href="{escape(cell.href)}">{text}</a>' if cell.href else text
    return f"<{tag}{kind}>{text}</{tag}>"


def _as_cell(cell: str | Cell) -> Cell:
    return cell if isinstance(cell, Cell) else Cell(cell)
