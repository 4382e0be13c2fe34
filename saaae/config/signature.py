"""Constructor signatures read from source, so that a configuration is checked without importing torch."""

import ast
import importlib.util
import json
import math
import typing
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import TypeAdapter, ValidationError

from saaae import ranges


class Parameter(NamedTuple):
    """One argument of a constructor."""

    annotation: Any
    required: bool


class Signature(NamedTuple):
    """The arguments of a constructor or function; `open` when it takes further keywords."""

    parameters: dict[str, Parameter]
    open: bool


class _Names(dict):
    """What an annotation may name; everything else (torch types, say) is not checked."""

    def __missing__(self, key: str) -> Any:
        return Any


_NAMES = _Names(
    {name: getattr(ranges, name) for name in dir(ranges) if not name.startswith("_")}
    | {name: getattr(typing, name) for name in ("Union", "Optional", "Callable", "Iterable", "Sequence")}
    | {"Any": Any, "Literal": Literal, "Annotated": Annotated}
    | {kind.__name__: kind for kind in (int, float, str, bool, list, dict, tuple)}
)


def _annotation(node: ast.expr | None) -> Any:
    if node is None:
        return Any
    try:
        return eval(compile(ast.Expression(node), "<annotation>", "eval"), {"__builtins__": {}}, _NAMES)
    except (AttributeError, TypeError, NameError):
        return Any


@cache
def _source(module: str) -> ast.Module | None:
    """Parsed source of a module, found without importing it or its parents."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top) if top else None
    if spec is None or spec.origin is None:
        return None
    base = Path(spec.origin).parent.joinpath(*rest)
    path = Path(spec.origin) if not rest else base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
    return ast.parse(path.read_text()) if path.suffix == ".py" and path.is_file() else None


def _find(module: str, name: str) -> tuple[str, ast.ClassDef | ast.FunctionDef] | None:
    """Where `name` of `module` is defined, following imports."""
    tree = _source(module)
    for node in tree.body if tree else []:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return module, node
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    parent = module.split(".")[: -node.level or None] if node.level else []
                    return _find(".".join([*parent, node.module or ""]), alias.name)
    return None


def is_class(target: str) -> bool:
    """Whether a dotted path names a class that is defined in that very module, not imported there."""
    module, _, name = target.rpartition(".")
    tree = _source(module) if module else None
    return any(isinstance(node, ast.ClassDef) and node.name == name for node in (tree.body if tree else []))


@cache
def signature(target: str) -> Signature | None:
    """The signature of a dotted `_target_`, or None when its source is not found."""
    found = _find(*target.rpartition(".")[::2])
    while found:
        module, cls = found
        if isinstance(cls, ast.FunctionDef):
            return _of_function(module, cls, skip=0)
        init = [node for node in cls.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
        if init:
            return _of_function(module, init[-1], skip=1)
        base = cls.bases[0] if cls.bases else None
        found = _find(module, base.id) if isinstance(base, ast.Name) else None
        if found is None:  # nothing to construct with, unless a foreign base says otherwise
            return Signature({}, open=not module.startswith("saaae."))
    return None


def _of_function(module: str, node: ast.FunctionDef, skip: int) -> Signature:
    args = node.args
    positional = [*args.posonlyargs, *args.args]
    no_default = len(positional) - len(args.defaults)
    parameters = {
        arg.arg: Parameter(_annotation(arg.annotation), i < no_default) for i, arg in enumerate(positional) if i >= skip
    }
    for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True):
        parameters[arg.arg] = Parameter(_annotation(arg.annotation), default is None)
    shared = _unpacked(module, args.kwarg)
    return Signature(parameters | shared, args.kwarg is not None and not shared)


def _unpacked(module: str, kwarg: ast.arg | None) -> dict[str, Parameter]:
    """The arguments that `**name: Unpack[SomeTypedDict]` stands for (PEP 692)."""
    annotation = kwarg.annotation if kwarg else None
    if not (isinstance(annotation, ast.Subscript) and isinstance(annotation.slice, ast.Name)):
        return {}
    return _fields(module, annotation.slice.id)


def _fields(module: str, name: str) -> dict[str, Parameter]:
    """The fields of a TypedDict, those of its bases first."""
    found = _find(module, name)
    if found is None or not isinstance(found[1], ast.ClassDef):
        return {}
    cls = found[1]
    inherited = [_fields(found[0], base.id) for base in cls.bases if isinstance(base, ast.Name)]
    own = {
        field.target.id: Parameter(_annotation(field.annotation), True)
        for field in cls.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
    }
    return {name: parameter for fields in [*inherited, own] for name, parameter in fields.items()}


def choices(annotation: Any) -> list[str]:
    """The literal values that an annotation allows, as words."""
    if typing.get_origin(annotation) is Literal:
        return [str(value) for value in typing.get_args(annotation)]
    return [word for arg in typing.get_args(annotation) for word in choices(arg)]


def mismatch(annotation: Any, value: Any) -> str | None:
    """What was expected when `value` does not fit `annotation`, else None. Strict: no text for a number."""
    if annotation is Any:
        return None
    try:
        TypeAdapter(annotation).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        if isinstance(value, float) and not math.isfinite(value):
            return "a finite number"
        details = error.errors()
        kinds = {_kind_of(detail) for detail in details} - {""}
        texts = (
            f"{_kind_of(detail)}{_expected(detail)}" if len(kinds) > 1 else _expected(detail) for detail in details
        )
        return " or ".join(dict.fromkeys(texts))
    except TypeError:
        return "a plain value"
    return None


def _kind_of(detail: Mapping[str, Any]) -> str:
    """Which kind of number a bound is for, where a setting takes both; empty for all other errors."""
    if not str(detail["type"]).startswith(("greater_than", "less_than")):
        return ""
    branch = " ".join(map(str, detail["loc"]))
    return "an integer " if "int" in branch else "a fraction " if "float" in branch else ""


_WORDS = {
    "int_type": "an integer",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "none_required": "null",
    "too_short": "a list of at least one item",
}


def _only_length(detail: Mapping[str, Any]) -> int:
    """The length of a list that may have one length only, from two up; 0 for any other list."""
    limits = detail["ctx"]
    return int(limits.get("max_length", limits.get("min_length", 0))) if limits.get("min_length", 2) > 1 else 0


def _expected(detail: Mapping[str, Any]) -> str:
    if detail["type"] == "predicate_failed":
        return "an existing folder (data_dir= or SAAAE_DATA_DIR says where the data is)"
    if detail["type"] == "json_invalid":
        return "text in UTF-8"
    if detail["type"] in ("too_short", "too_long") and (length := _only_length(detail)):
        return f"a list of {length} items"
    message = str(detail["msg"]).replace("Input should be ", "")
    text = _WORDS.get(detail["type"], message[0].lower() + message[1:])
    in_list = any(isinstance(part, int) for part in detail["loc"])
    return f"in a list each {text}" if in_list else text
