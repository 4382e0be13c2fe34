"""Test a trained model: python evaluate.py run=<run folder> [checkpoint=best|last|<path>] [data=...]."""

from pathlib import Path

from saaae.runs.door import open_door
from saaae.runs.evaluate import EVALUATE

if __name__ == "__main__":
    open_door(EVALUATE, Path(__file__).parent / "conf")
