"""Launchers and sweepers, and the package that each needs."""

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from shutil import which

from hydra.core.override_parser.types import Override

from saaae.errors import UserError, nearest

LAUNCHERS_AND_SWEEPERS: dict[str, dict[str, tuple[str, str]]] = {
    "hydra/launcher": {
        "basic": ("hydra", ""),
        "parallel": ("hydra_plugins.hydra_joblib_launcher", "parallel"),
        "gpus": ("hydra_plugins.hydra_ray_launcher", "gpus"),
        "slurm": ("hydra_plugins.hydra_submitit_launcher", "slurm"),
        "ray_cluster": ("hydra_plugins.hydra_ray_launcher", "gpus"),
        "joblib": ("hydra_plugins.hydra_joblib_launcher", "parallel"),
        "ray": ("hydra_plugins.hydra_ray_launcher", "gpus"),
        "ray_aws": ("hydra_plugins.hydra_ray_launcher", "gpus"),
        "submitit_local": ("hydra_plugins.hydra_submitit_launcher", "slurm"),
        "submitit_slurm": ("hydra_plugins.hydra_submitit_launcher", "slurm"),
    },
    "hydra/sweeper": {"basic": ("hydra", ""), "optuna": ("optuna", "optuna")},
}
"""Module and extra of each option; the last five launchers are their plugins' own."""

MACHINE_KEYS = ("accelerator", "accelerator.devices", "accelerator.num_nodes", "accelerator.accelerator")
"""Settings that decide which machine a job needs."""


def chosen(key: str, overrides: Iterable[Override]) -> str | None:
    """Value of an override of a group or key; None without one."""
    values = [override.value() for override in overrides if override.key_or_group == key]
    return None if not values or values[-1] is None else str(values[-1])


def check_installed(overrides: list[Override], multirun: bool) -> None:
    """Checks what was typed for `hydra/launcher` and `hydra/sweeper`.

    Raises:
        UserError: If there is no such option, it is not installed, or there are no several jobs.
    """
    for group, options in LAUNCHERS_AND_SWEEPERS.items():
        option = chosen(group, overrides)
        if option is None:
            continue
        if option not in options:
            raise UserError(f"{group}={option}: expected one of {', '.join(options)}{nearest(option, options)}")
        module, extra = options[option]
        if not is_installed(module):
            raise UserError(f"{group}={option}: not installed; pip install -e '.[{extra}]', or uv run --extra {extra}")
        if not multirun:
            raise UserError(f"{group}={option}: is for several jobs, with --multirun (-m)")


def check_gpus_exist(overrides: list[Override]) -> None:
    """Checks for GPUs: Ray would wait for them for ever.

    Raises:
        UserError: If a job is to have a GPU, and this machine has none.
    """
    if chosen("hydra/launcher", overrides) != "gpus":
        return
    asked = chosen("hydra.launcher.ray.remote.num_gpus", overrides) or "1"
    known = chosen("hydra.launcher.ray.init.num_gpus", overrides)
    if asked != "0" and known is None and not Path("/proc/driver/nvidia").exists() and not which("nvidia-smi"):
        raise UserError(
            "hydra/launcher=gpus: this machine has no GPU; expected hydra/launcher=parallel, "
            "or hydra.launcher.ray.remote.num_gpus=0"
        )


def check_slurm_array(overrides: list[Override]) -> None:
    """Checks that all jobs of a SLURM array need the same machine.

    Raises:
        UserError: If the jobs need different ones.
    """
    slurm = chosen("hydra/launcher", overrides) in ("slurm", "submitit_slurm")
    for override in overrides:
        if slurm and override.is_sweep_override() and override.key_or_group in MACHINE_KEYS:
            raise UserError(
                f"{override.input_line}: the jobs of a SLURM array get the same machine; expected one command for each"
            )


def is_installed(module: str) -> bool:
    """Whether a module can be imported; does not import it."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package above it
        return False
