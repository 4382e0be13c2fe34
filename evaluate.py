"""Test a trained model: python evaluate.py run=<run folder> [checkpoint=best|last|<path>] [data=...]."""

from pathlib import Path

from saaae.cli.evaluate import EVALUATE
from saaae.cli.main import open_door

if __name__ == "__main__":
    open_door(EVALUATE, Path(__file__).parent / "conf")
