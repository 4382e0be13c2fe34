"""`saaae explore`: a local web page on which a trained model is tried by hand."""

import threading
import webbrowser
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

from saaae.cli.console import ConsoleCommand
from saaae.errors import UserError
from saaae.ranges import NonNegativeInt, PositiveInt

PACKAGES = ("starlette", "uvicorn")


@dataclass(frozen=True)
class Explore:
    """Opens a local web page to explore a trained model, or two side by side on the same images.

    The page is for this machine only (127.0.0.1), under an address with a secret token. It shows test images of the
    (first) run or `images`. Loading a run's data may fill their cache or download MNIST; nothing else is written.
    Ctrl-C ends it.
    """

    run: Annotated[str | list[str], "run folder, checkpoint or exported folder, or a list of two"]
    images: Annotated[str | list[str] | None, "image files in place of test images, as for saaae predict"] = None
    count: Annotated[PositiveInt, "images at most; fewer of large ones"] = 256
    port: Annotated[NonNegativeInt, "port of the page; 0 finds a free one"] = 0
    open: Annotated[bool, "whether a browser is opened"] = False
    device: Annotated[str, "where it computes: cpu, cuda, cuda:1, mps"] = "cpu"
    checkpoint: Annotated[Literal["best", "last"], "which checkpoint of a run folder"] = "best"
    trust: Annotated[tuple[str, ...], "packages besides saaae whose classes the run may use"] = ()


def explore(settings: Explore) -> None:
    """Loads the models, and serves the page until Ctrl-C.

    Raises:
        UserError: If a package or a run is missing, or the port is taken.
    """
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise UserError(
            f"saaae explore: needs {', '.join(missing)}; pip install -e '.[explore]', or uv sync --extra explore"
        )
    runs = [settings.run] if isinstance(settings.run, str) else settings.run
    if not 1 <= len(runs) <= 2:
        raise UserError(f"run={runs}: expected one run, or two to compare")
    if settings.port > 65535:
        raise UserError(f"port={settings.port}: expected 0 to 65535")
    from saaae.explore.load import load
    from saaae.explore.server import serve

    paths = [Path(run) for run in runs]
    page = load(paths, settings.images, settings.count, settings.device, settings.checkpoint, settings.trust)

    def opened(address: str) -> None:
        print(f"exploring    {address}\n             Ctrl-C ends it", flush=True)
        if settings.open:
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()  # it may wait for its end

    serve(page, settings.port, opened)


COMMAND = ConsoleCommand(Explore, explore, positional=("run",), example="saaae explore outputs/first open=true")
