import dataclasses
from typing import Annotated, Literal

import pytest

from saaae.cli import console
from saaae.errors import RunFailedError, UserError
from saaae.ranges import PositiveInt


@dataclasses.dataclass(frozen=True)
class Settings:
    """Greets somebody.

    A second paragraph.
    """

    name: Annotated[str, "whom to greet"]
    count: Annotated[PositiveInt, "how often"] = 1
    loud: Annotated[bool, "whether to shout"] = False
    others: Annotated[str | list[str] | None, "further names"] = None
    mood: Annotated[Literal["happy", "sad"], "tone"] = "happy"


COMMAND = console.ConsoleCommand(Settings, print, positional=("name",), example="saaae greet Ada count=2")


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the console script with one command, `greet`; gives its exit status, output and errors."""

    def result(*words, work=lambda settings: print(settings)):
        monkeypatch.setitem(globals(), "COMMAND", COMMAND._replace(run=work))
        monkeypatch.setattr(console, "COMMANDS", {"greet": __name__})
        monkeypatch.setattr(console, "PROGRAMS", {})
        with pytest.raises(SystemExit) as stop:
            console.main(words)
        return stop.value.code, *capsys.readouterr()

    return result


def test_settings_are_typed_by_their_annotations():
    words = ["Ada", "count=2", "--loud", "others=[a,b]"]
    assert console.parse("greet", COMMAND, words) == Settings("Ada", 2, True, ["a", "b"])
    for text in ("2024-01-01", "1", "true", "[a", "x # y", "a: b"):  # YAML would read something else
        assert console.parse("greet", COMMAND, [f"name={text}"]).name == text
    assert console.parse("greet", COMMAND, ["a", "others=null"]).others is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name: missing; expected name=<whom to greet>"),
        (["a", "b"], "b: expected key=value; saaae greet --help lists the settings"),
        (
            ["a", "cuont=2"],
            "cuont: no such setting of saaae greet; expected name, count, loud, others, mood; did you mean count?",
        ),
        (["a", "count=0"], "count=0: expected greater than or equal to 1"),
        (["a", "count=two"], "count=two: expected an integer"),
        (["a", "mood=hapy"], "mood=hapy: expected 'happy' or 'sad'; did you mean happy?"),
        (["a", "count=1", "count=2"], "count: given twice; expected once, a list is count=[a,b]"),
    ],
)  # fmt: skip
def test_a_usage_error_is_one_line_and_exit_status_2(run, words, message):
    assert run("greet", *words) == (2, "", f"error: {message}\n")


def test_an_unknown_command_names_the_nearest(run):
    assert run("great") == (2, "", "error: great: no such command; expected one of greet; did you mean greet?\n")


def test_help_lists_commands_and_settings(run):
    status, text, _ = run("--help")
    assert status == 0
    assert "greet       Greets somebody." in text
    status, text, _ = run("greet", "--help")
    assert status == 0
    for part in ("usage: saaae greet [name] [key=value ...]", "name=required", "mood=happy", "tone", "example: saaae"):
        assert part in text
    assert run()[0] == 2


def test_the_programs_of_a_checkout_are_commands_too(monkeypatch, capsys):
    for words, message in (
        (["train", "modle=vae"], "modle: no such key; did you mean model?"),
        (["evaluate", "runn=x"], "runn: no such key; did you mean run?"),
        (["trian"], "trian: no such command; expected one of train, evaluate, predict, despeckle, explore, export, "
                    "runs, diff, clean; did you mean train?"),
    ):  # fmt: skip
        monkeypatch.setattr("sys.argv", ["saaae", *words])
        with pytest.raises(SystemExit) as stop:
            console.main()
        assert (stop.value.code, *capsys.readouterr()) == (2, "", f"error: {message}\n")


def test_failures_have_their_exit_statuses(run):
    def fails(error):
        def work(settings):
            raise error

        return work

    assert run("greet", "a", work=fails(UserError("no"))) == (2, "", "error: no\n")
    assert run("greet", "a", work=fails(RunFailedError("broken"))) == (1, "", "error: broken\n")
    assert run("greet", "a", work=fails(OSError(28, "No space left on device", "x"))) == (
        1, "", "error: x: No space left on device\n",
    )  # fmt: skip
    assert run("greet", "a", work=fails(KeyboardInterrupt()))[0] == 130
    status, _, errors = run("greet", "a", work=fails(ValueError("a bug")))
    assert status == 1
    assert "Traceback" in errors
    assert run("greet", "a", work=lambda settings: 1)[0] == 1
