"""Writes docs/options.md, the list of all options, from the files in conf/: python docs/make_options.py

Everything in the list comes from the YAML files: option names, keys, defaults, and the comments beside them.
"""

from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

import yaml

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
PROGRAMS = {
    "train": "`python train.py`: settings outside the groups",
    "evaluate": "`python evaluate.py`: all settings",
    "shards": "Writing shards for `data=stream`: all settings",
}
"""Primary configurations and the titles of their tables."""
BASE = "base"
"""File that the options of a group inherit from; not an option itself."""
INTRODUCTION = """# Options

Generated from `conf/` by `python docs/make_options.py`; a test checks that this page is current.

An option of a group is chosen with `group=option`, a key is set with `key=value`, on the command line of `train.py`.
`${...}` is the value of another key. The option in bold is the one that `python train.py` uses by default. A key whose
default or meaning differs between the options of its group has one row for each.
"""


class Key(NamedTuple):
    """A setting as a YAML file states it.

    Attributes:
        name: Dotted name as it is written on the command line.
        default: The value as it stands in the file.
        comment: The comment on its line.
    """

    name: str
    default: str
    comment: str


class Option(NamedTuple):
    """A YAML file of a group.

    Attributes:
        name: Name of the option.
        classes: Names of the classes that the option builds.
        comment: What the file says about the option as a whole, and which options of other groups it chooses.
        keys: Its settings.
    """

    name: str
    classes: list[str]
    comment: str
    keys: list[Key]


def comment_after(line: str, column: int) -> str:
    """The comment that follows a value on its line."""
    _, mark, text = line[column:].partition("#")
    return text.strip() if mark else ""


def comment_above(lines: list[str], number: int) -> str:
    """The comment lines directly above a line; those at the top of a file belong to the whole file."""
    above = list(takewhile(lambda line: line.lstrip().startswith("#"), reversed(lines[:number])))
    return " ".join(line.lstrip(" #") for line in reversed(above)) if len(above) < number else ""


def keys_of(node: yaml.MappingNode, lines: list[str], prefix: str) -> Iterator[Key]:
    """All settings below a YAML mapping, without those that name classes."""
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        if key.value in ("_target_", "_partial_", "defaults") or name == "hydra":
            continue
        if isinstance(value, yaml.MappingNode) and value.value and not value.flow_style:
            yield from keys_of(value, lines, f"{name}.")
            continue
        end = value.end_mark
        text = lines[value.start_mark.line][value.start_mark.column : end.column]
        yield Key(name, text, comment_after(lines[end.line], end.column) or comment_above(lines, key.start_mark.line))


def classes_in(value: object) -> Iterator[str]:
    """Class names in a loaded YAML file, outermost first."""
    if isinstance(value, dict):
        if "_target_" in value:
            yield value["_target_"].rpartition(".")[2]
        for child in value.values():
            yield from classes_in(child)


def read(path: Path, prefix: str) -> Option:
    """Reads a file of conf/.

    Args:
        path: The YAML file.
        prefix: What its keys begin with on the command line; empty for a file of the root package.
    """
    text = path.read_text()
    lines, node, content = text.splitlines(), yaml.compose(text), yaml.safe_load(text)
    assert isinstance(node, yaml.MappingNode)
    head = takewhile(lambda line: line.startswith("#"), lines)
    comments = [line[1:].strip() for line in head if "@package" not in line]
    comments = comments or [comment_after(lines[0], 0)]
    entries = [entry for entry in content.get("defaults", []) if isinstance(entry, dict)]
    choices = [entry for entry in entries if str(next(iter(entry))).startswith("override /")]
    chosen = [f"`{key.removeprefix('override /')}={value}`" for entry in choices for key, value in entry.items()]
    comments += [f"Chooses {', '.join(chosen)}."] if chosen and path.parent != CONF else []
    keys = {key.name: key for key in keys_of(node, lines, prefix)}
    if BASE in content.get("defaults", []):
        keys = {key.name: key for key in read(path.with_stem(BASE), prefix).keys} | keys
    return Option(path.stem, list(classes_in(content)), " ".join(filter(None, comments)), list(keys.values()))


def plain(text: str) -> str:
    """A comment as text inside a Markdown table."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def code(text: str) -> str:
    """Text as Markdown code inside a table."""
    return f"`{text}`".replace("|", "\\|") if text else ""


def key_table(options: list[Option]) -> Iterator[str]:
    """One row for each key, default and comment, with the options that share it."""
    rows: dict[Key, list[str]] = {}
    for option in options:
        for key in option.keys:
            rows.setdefault(key, []).append(option.name)
    if not rows:
        return
    several = len(options) > 1
    yield "| key | default | " + ("options | meaning |" if several else "meaning |")
    yield "|---|---|---|" + ("---|" if several else "")
    for key in sorted(rows, key=lambda key: [k.name for k in rows].index(key.name)):
        having = "all" if len(rows[key]) == len(options) else " ".join(map(code, rows[key]))
        shared = f"{having} | " if several else ""
        yield f"| {code(key.name)} | {code(key.default)} | {shared}{plain(key.comment)} |"


def group_section(folder: Path, chosen: str | None) -> Iterator[str]:
    """Options and keys of one group."""
    group = str(folder.relative_to(CONF))
    whole = folder.name in ("model", "experiment")
    paths = sorted(path for path in folder.glob("*.yaml") if path.stem != BASE)
    options = [read(path, "" if whole else f"{group.replace('/', '.')}.") for path in paths]
    yield f"\n## `{group}=`\n"
    with_class = not whole and any(option.classes for option in options)
    yield "| option | " + ("class | what it is |" if with_class else "what it is |")
    yield "|---|---|" + ("---|" if with_class else "")
    for option in options:
        name = f"**{code(option.name)}**" if option.name == chosen else code(option.name)
        classes = f"{', '.join(map(code, option.classes))} | " if with_class else ""
        yield f"| {name} | {classes}{plain(option.comment)} |"
    table = list(key_table(options))
    yield from ["", *table] if table else []


def page() -> str:
    """The whole page."""
    chosen: dict[str, str] = {}
    first = yaml.safe_load((CONF / "train.yaml").read_text())["defaults"]
    model = next(entry["model"] for entry in first if "model" in entry)
    for entry in [*first, *yaml.safe_load((CONF / "model" / f"{model}.yaml").read_text())["defaults"]]:
        if isinstance(entry, dict):
            chosen |= {key.removeprefix("override /"): option for key, option in entry.items()}
    lines = [INTRODUCTION.rstrip()]
    folders = sorted({path.parent for path in CONF.rglob("*.yaml")} - {CONF})
    own, hydra = ([f for f in folders if ("hydra" in f.relative_to(CONF).parts) is third] for third in (False, True))
    lines += ["\n## " + PROGRAMS["train"] + "\n", *key_table([read(CONF / "train.yaml", "")])]
    for folder in [*own, *hydra]:
        lines += group_section(folder, chosen.get(folder.name))
    for name in list(PROGRAMS)[1:]:
        lines += [f"\n## {PROGRAMS[name]}\n", *key_table([read(CONF / f"{name}.yaml", "")])]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (Path(__file__).parent / "options.md").write_text(page())
