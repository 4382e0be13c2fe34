"""The folder conf/, which holds the options of the configuration."""

from pathlib import Path

PACKAGE = Path(__file__).parents[1]


def config_folder() -> Path:
    """conf/ beside train.py in a checkout, and inside the package where it was installed from a wheel."""
    inside = PACKAGE / "conf"
    return inside if inside.is_dir() else PACKAGE.parent / "conf"
