"""Functions that the configuration calls: names of run, sweep and job folders."""

import hashlib
import json
import random
import re
from datetime import datetime
from functools import cache
from pathlib import Path

from omegaconf import ListConfig, OmegaConf

from saaae.config.overrides import key_of
from saaae.config.settings import is_runtime
from saaae.errors import UserError

OUTPUTS = Path("outputs")


@cache
def stamp() -> str:
    """Time and chance, the same all through this process: unique even for launches in the same second."""
    return f"{datetime.now():%Y-%m-%d_%H-%M-%S}-{random.SystemRandom().randrange(16**6):06x}"


def run_folder(name: str | None, resume: str | None, default: str) -> str:
    """Folder of a single run."""
    return str(Path(resume) if resume else OUTPUTS / name if name else OUTPUTS / default / stamp())


def sweep_folder(name: str | None) -> str:
    """Folder of a multirun."""
    return str(OUTPUTS / (name or f"sweep-{stamp()}"))


def job_folder(swept: str, overrides: ListConfig | list[str]) -> str:
    """Folder of a job: its swept overrides, shortened, and a hash of all its overrides.

    Args:
        swept: Overrides that differ between the jobs, `key=value,key=value`.
        overrides: All overrides of the job.
    """
    hashed = sorted(str(o) for o in overrides if not is_runtime(key_of(str(o))))
    pairs = (part.partition("=") for part in swept.split(","))
    short = ",".join(key.split(".")[-1] + equals + value for key, equals, value in pairs)
    short = re.sub(r"[^\w.=,+-]", "", short)[:80]
    digest = hashlib.sha256(json.dumps(hashed).encode()).hexdigest()[:8]
    return f"{short}-{digest}".lstrip("-")


def gpus_of(accelerator: str, devices: int | str) -> int | None:
    """GPUs per machine that a run requests from a cluster; None for none.

    Raises:
        UserError: If the number of devices is not given.
    """
    if accelerator in ("cpu", "mps"):
        return None
    if not isinstance(devices, int):
        raise UserError(f"accelerator.devices={devices}: a cluster needs a number; expected one")
    return devices


def register_resolvers() -> None:
    """Makes the functions that the configuration calls known to OmegaConf."""
    OmegaConf.register_new_resolver("run_folder", run_folder, replace=True)
    OmegaConf.register_new_resolver("sweep_folder", sweep_folder, replace=True)
    OmegaConf.register_new_resolver("job_folder", job_folder, replace=True)
    OmegaConf.register_new_resolver("last", lambda values: values[-1] if values else None, replace=True)
    OmegaConf.register_new_resolver("gpus_of", gpus_of, replace=True)
    OmegaConf.register_new_resolver(
        "if_small", lambda size, small, large: small if isinstance(size, int) and size <= 32 else large, replace=True
    )
