"""The folder conf/, which holds the options of the configuration."""

from pathlib import Path

PACKAGE = Path(__file__).parents[1]


def config_folder() -> Path:
    """conf/ beside train.py in a checkout, and inside the package where it was installed from a wheel."""
    conf, script = PACKAGE.parent / "conf", PACKAGE.parent / "train.py"
    return conf if conf.is_dir() and script.is_file() else PACKAGE / "conf"
