"""The console script `saaae`: `saaae <command> key=value ...`."""

import dataclasses
import importlib
import inspect
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, NamedTuple, NoReturn, get_args, get_origin

import yaml

from saaae.cli.command import Command
from saaae.cli.jobs import DONE, FAILED, USAGE_ERROR
from saaae.config.folder import config_folder
from saaae.config.settings import hints
from saaae.config.signature import choices, mismatch
from saaae.errors import RunFailedError, UserError, disk_error, nearest, out_of_memory, user_error_in

COMMANDS: dict[str, str] = {
    "predict": "saaae.cli.predict",
    "despeckle": "saaae.cli.despeckle",
    "explore": "saaae.cli.explore",
    "export": "saaae.cli.export",
    "runs": "saaae.cli.runs",
    "diff": "saaae.cli.diff",
    "clean": "saaae.cli.clean",
}
"""Module of each command, in the order of the help; it has a `COMMAND`."""

PROGRAMS = {"train": "trains a model, as train.py", "evaluate": "tests a trained model again, as evaluate.py"}
"""Commands of the Hydra programs, for an installed package, which has no train.py and evaluate.py."""

INTERRUPTED = 130


class ConsoleCommand(NamedTuple):
    """One command of the console script.

    Attributes:
        settings: A frozen dataclass whose fields are its settings; the docstring says what the command does, and a
            field's annotation is `Annotated[<type>, "<what it means>"]`. A field without a default is required; lists
            are tuples, because defaults must not change.
        run: Does the work, given the settings. Returns the exit status; None is 0.
        positional: Settings that may be given without their name, in this order.
        example: An example of its use.
    """

    settings: type
    run: Any
    positional: tuple[str, ...] = ()
    example: str = ""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs a command.

    Exits with 0 (done), 1 (failed, perhaps in part), 2 (a usage error) or 130 (interrupted).
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        sys.exit(_run(words))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        usage_error, memory = user_error_in(error), out_of_memory(error)
        known = usage_error or disk_error(error) or (memory and f"out of memory ({memory})")
        expected = known or isinstance(error, RunFailedError)
        print(f"error: {known or error}" if expected else traceback.format_exc(), file=sys.stderr)
        sys.exit(USAGE_ERROR if usage_error else FAILED)


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return DONE if words else USAGE_ERROR
    name, *rest = words
    if name in PROGRAMS:
        return _program(name, rest)
    if name not in COMMANDS:
        commands = [*PROGRAMS, *COMMANDS]
        raise UserError(f"{name}: no such command; expected one of {', '.join(commands)}{nearest(name, commands)}")
    command: ConsoleCommand = importlib.import_module(COMMANDS[name]).COMMAND
    if {"-h", "--help"} & set(rest):
        print(_help(name, command))
        return DONE
    return command.run(parse(name, command, rest)) or DONE


def _program(name: str, words: list[str]) -> NoReturn:
    """Runs train.py or evaluate.py, which exits with their status."""
    command: Command = getattr(importlib.import_module(f"saaae.cli.{name}"), name.upper())
    from saaae.cli.main import main

    sys.argv[1:] = words
    main(command, config_folder())
    sys.exit(DONE)


def parse(name: str, command: ConsoleCommand, words: Sequence[str]) -> Any:
    """The settings that the words after a command's name give.

    Args:
        name: The command's name, for messages.
        command: The command.
        words: `key=value`, `--key` for `key=true`, or the value of a positional setting.

    Raises:
        UserError: Naming the word and what was expected.
    """
    known = hints(command.settings).parameters
    given: dict[str, Any] = {}
    for key, text in _pairs(name, command, words):
        if key not in known:
            raise UserError(f"{key}: no such setting of saaae {name}; expected {', '.join(known)}{nearest(key, known)}")
        if key in given:
            raise UserError(f"{key}: given twice; expected once, a list is {key}=[a,b]")
        given[key] = _value(key, known[key].annotation, text)
    for field in dataclasses.fields(command.settings):
        if field.name not in given and field.default is dataclasses.MISSING:
            raise UserError(f"{field.name}: missing; expected {field.name}=<{describe(known[field.name].annotation)}>")
    return command.settings(**given)


def _pairs(name: str, command: ConsoleCommand, words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Keys and texts of the words after a command's name."""
    positional = iter(command.positional)
    for word in words:
        key, equals, text = word.partition("=")
        if word.startswith("--"):
            yield key.removeprefix("--").replace("-", "_"), text if equals else "true"
        elif equals and key.isidentifier():
            yield key, text
        elif (key := next(positional, "")) != "":
            yield key, word
        else:
            raise UserError(f"{word}: expected key=value; saaae {name} --help lists the settings")


def _value(key: str, annotation: Any, text: str) -> Any:
    """The value that a text stands for: as YAML if that fits the annotation, else the text itself."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    if isinstance(value, str) or (mismatch(annotation, value) is not None and mismatch(annotation, text) is None):
        value = text
    if expected := mismatch(annotation, value):
        hint = nearest(text, choices(annotation))
        raise UserError(f"{key}={text}: expected {expected}{hint}")
    return value


def describe(annotation: Any) -> str:
    """What a setting means: the text in its annotation."""
    texts = [part for part in get_args(annotation)[1:] if isinstance(part, str)]
    return texts[-1] if get_origin(annotation) is Annotated and texts else "value"


def _overview() -> str:
    lines = ["usage: saaae <command> [key=value ...]", "", *(f"  {n:<12}{text}" for n, text in PROGRAMS.items())]
    for name, module in COMMANDS.items():
        summary = (importlib.import_module(module).COMMAND.settings.__doc__ or "").splitlines()[0]
        lines.append(f"  {name:<12}{summary}")
    return "\n".join([*lines, "", "saaae <command> --help lists its settings."])


def _help(name: str, command: ConsoleCommand) -> str:
    known = hints(command.settings).parameters
    words = " ".join(f"[{key}]" for key in command.positional)
    lines = [
        f"usage: saaae {name} {words + ' ' if words else ''}[key=value ...]",
        "",
        inspect.getdoc(command.settings) or "",
    ]
    for field in dataclasses.fields(command.settings):
        required = field.default is dataclasses.MISSING
        default = "required" if required else _text(field)
        lines.append(f"  {field.name + '=' + default:<24}{describe(known[field.name].annotation)}")
    return "\n".join([*lines, *(["", f"example: {command.example}"] if command.example else [])])


def _text(field: dataclasses.Field) -> str:
    """A default as it would be typed."""
    value = field.default
    if isinstance(value, tuple):
        return f"[{','.join(map(str, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
