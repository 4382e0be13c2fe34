"""Signals that stop a run: it finishes its step, saves and exits; the next start continues from there."""

import logging
import os
import signal
import subprocess
import threading
from types import FrameType
from typing import Any

log = logging.getLogger("saaae")


class Interrupted(SystemExit):
    """A run that a signal has stopped; its exit status is what shells expect of it (128 + the signal).

    Args:
        signum: The signal.
    """

    def __init__(self, signum: int) -> None:
        self.status = 128 + signum
        super().__init__(self.status)
        self.signal = signal.Signals(signum).name

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.status - 128,)


class Interruption:
    """Handles SIGTERM and SIGINT while it is entered, and SIGUSR1 and SIGUSR2 where they announce a preemption.

    During training the first signal is remembered until the checkpoint at the end of the step; a second one, and any
    signal elsewhere, ends the run at once. A launcher that waits for SIGUSR1 or SIGUSR2 itself, as submitit does, gets
    it once everything is saved, and sees to the rest; else SIGUSR1 under SLURM has the job queued again.

    Attributes:
        signum: The signal that this process has got in training; None for none.
        agreed: The signal that all processes of the run know of; None for none.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self.agreed: int | None = None
        self.in_training = False
        self._process = os.getpid()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():  # no other may handle signals
            wanted = [signal.SIGINT, *filter(announces_preemption, (signal.SIGUSR1, signal.SIGUSR2))]
            # A launcher that handles SIGTERM itself, as submitit does, is to be killed and queued again by its cluster.
            wanted += [] if callable(signal.getsignal(signal.SIGTERM)) else [signal.SIGTERM]
            self._before = {signum: signal.getsignal(signum) for signum in wanted}
        self.install()
        return self

    def __exit__(self, kind: Any, value: BaseException | None, trace: Any) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        if isinstance(value, Interrupted) and value.signal in ("SIGUSR1", "SIGUSR2"):
            signum = signal.Signals[value.signal]
            launcher = self._before[signum]
            launcher(signum, None) if callable(launcher) else requeue()

    def install(self) -> None:
        """Puts the handlers in place; again where Lightning has put its own."""
        for signum in self._before:
            signal.signal(signum, self._handle)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a data loader's worker, which inherited the handler: its parent decides
        if not self.in_training or self.signum == signum:
            raise Interrupted(signum)
        if self.signum is None or signum in (signal.SIGUSR1, signal.SIGUSR2):  # those have the job queued again
            self.signum = signum
        log.info("%s: finishing the step; once more to stop at once", signal.Signals(signum).name)

    def leave(self) -> None:
        """Ends the run if a signal has asked for it, and all its processes know.

        Raises:
            Interrupted: With that signal.
        """
        if self.agreed:
            self.in_training = False
            raise Interrupted(self.agreed)


def announces_preemption(signum: signal.Signals) -> bool:
    """Whether a user's signal is one that a launcher waits for, or that SLURM sends (`--signal=B:USR1@120`)."""
    return callable(signal.getsignal(signum)) or (signum == signal.SIGUSR1 and "SLURM_JOB_ID" in os.environ)


def requeue() -> None:
    """Asks SLURM to start this job again, under its own number; the first of several processes does."""
    if any(os.environ.get(name, "0") != "0" for name in ("SLURM_PROCID", "LOCAL_RANK")):
        return
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        log.warning("warning: SLURM did not requeue job %s (%s)", job, error)
