"""Starts the project's commands quickly as real processes: one process imports everything once and forks for each.

`python tests/zygote.py` reads one JSON request per line; `Zygote` is its client.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import pkgutil
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

ROOT = Path(__file__).parents[1]
LATE = [
    "hydra._internal.hydra", "lightning.pytorch.loggers", "matplotlib.pyplot", "optuna", "s3fs",
    "sqlalchemy.dialects.sqlite", "torch.utils.tensorboard",
]  # fmt: skip
"""Modules of other packages that commands import only when they run."""


class Child:
    """A running command.

    Args:
        zygote: The client of the process that forked it.
        pid: Its process ID.
        files: The files that receive its stdout and stderr.
    """

    def __init__(self, zygote: "Zygote", pid: int, files: tuple[Path, Path]) -> None:
        self.zygote, self.pid, self.files = zygote, pid, files

    def send(self, signum: int) -> None:
        """Sends a signal."""
        os.kill(self.pid, signum)

    def wait(self) -> int:
        """Waits and returns the exit status, or minus the signal that killed it."""
        return self.zygote.ask({"wait": self.pid})

    @property
    def output(self) -> str:
        """Its stdout so far."""
        return self.files[0].read_text() if self.files[0].is_file() else ""

    @property
    def errors(self) -> str:
        """Its stderr so far."""
        return self.files[1].read_text() if self.files[1].is_file() else ""

    @property
    def printed(self) -> str:
        """Its stdout and stderr so far."""
        return self.output + self.errors


class Zygote:
    """Context manager of the forking process."""

    def __enter__(self) -> "Zygote":
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.number = 0
        return self

    def __exit__(self, *error: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def ask(self, request: dict[str, Any]) -> int:
        """Sends a request and returns the number that answers it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def start(
        self,
        cwd: Path,
        *arguments: str,
        script: str = "train.py",
        environment: dict[str, str] | None = None,
        file_limit: int | None = None,
        powerless: bool = False,
        two_ranks: bool = False,
    ) -> Child:
        """Starts `python <script> <arguments>` in a folder.

        Args:
            cwd: The folder.
            *arguments: The command line.
            script: A file at the top of the project.
            environment: Variables to add to the current environment of this process.
            file_limit: Largest file size in bytes; writing more fails as on a full disk.
            powerless: Whether the process gives up root's right to ignore file permissions.
            two_ranks: Whether the second process of the run is forked too, instead of a new interpreter.
        """
        self.number += 1
        files = cwd / f".output-{self.number}", cwd / f".errors-{self.number}"
        request = {
            "arguments": [str(ROOT / script), *arguments], "cwd": str(cwd), "files": [str(file) for file in files],
            "environment": {**os.environ, **(environment or {})}, "file_limit": file_limit, "powerless": powerless,
            "two_ranks": two_ranks,
        }  # fmt: skip
        return Child(self, self.ask(request), files)

    def run(self, cwd: Path, *arguments: str, **options: Any) -> tuple[int, str]:
        """Runs a command to its end; returns its exit status and output."""
        child = self.start(cwd, *arguments, **options)
        return child.wait(), child.printed


def wait_until(condition: Any, seconds: float = 60.0) -> None:
    """Returns as soon as a condition is true.

    Raises:
        TimeoutError: If it never does.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.01)


def give_up_power() -> None:
    """Drops every capability, so that file permissions hold for root too."""

    class Header(ctypes.Structure):
        _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]

    nothing = (ctypes.c_uint32 * 6)()
    ctypes.CDLL(None, use_errno=True).capset(ctypes.byref(Header(0x20080522, 0)), ctypes.byref(nothing))


def become(request: dict[str, Any]) -> None:
    """Turns the forked process into the command; never returns."""
    import runpy

    status = 1
    try:
        for stream, file in enumerate(request["files"], 1):
            os.dup2(os.open(file, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if request["file_limit"]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_limit"],) * 2)
        if request["powerless"]:
            give_up_power()
        if request["two_ranks"]:
            request |= second_rank()
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.path[:0] = filter(None, request["environment"].get("PYTHONPATH", "").split(os.pathsep))
        sys.argv = request["arguments"]
        runpy.run_path(sys.argv[0], run_name="__main__")
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        stop_idle_workers()
        os._exit(status)


def second_rank() -> dict[str, Any]:
    """Forks the process that the start of a second rank wakes; in that process it returns what to run, once known."""
    from lightning.pytorch.strategies.launchers import subprocess_script

    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(write)
        with open(read) as pipe:
            text = pipe.read()
        return json.loads(text) if text else os._exit(0)  # the first process ended without a second one
    os.close(read)

    class Woken(subprocess.Popen):
        def _execute_child(self, args: list[str], *options: Any) -> None:
            cwd, env = options[4:6]
            self.pid, self._child_created = pid, True
            subprocess_script.subprocess = subprocess  # for later starts
            with open(write, "w") as pipe:
                json.dump({"arguments": args[1:], "cwd": str(cwd or os.getcwd()), "environment": env}, pipe)

    subprocess_script.subprocess = cast(Any, SimpleNamespace(Popen=Woken))
    return {}


def stop_idle_workers() -> None:
    """Stops joblib's workers, as happens when a process exits normally."""
    pool = sys.modules.get("joblib.externals.loky.reusable_executor")
    if pool is not None and pool._executor is not None:
        pool._executor.shutdown(kill_workers=True)


def wait_for(pid: int, seconds: float = 180.0) -> int:
    """Exit status of a child, or minus the signal that killed it; a hanging child is killed, and its status is 999."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return 999


def import_everything() -> None:
    """Imports what the commands will: this package, and what Hydra, Lightning and its loggers import when they run."""
    import torch

    import saaae

    torch.set_num_threads(1)
    for module in pkgutil.walk_packages(saaae.__path__, "saaae."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in LATE:
        with contextlib.suppress(ImportError):  # an extra
            importlib.import_module(name)
    gc.freeze()  # a command need not look for garbage among all this


def main() -> None:
    """Reads requests, and forks and waits accordingly."""
    sys.path.insert(0, str(ROOT))
    import_everything()
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = wait_for(request["wait"])
        else:
            answer = os.fork()
            if answer == 0:
                become(request)
        print(answer, flush=True)
    os._exit(0)  # frozen objects look like leaks to the libraries that they belong to


if __name__ == "__main__":
    main()
