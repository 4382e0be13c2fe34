"""Test a trained model: python evaluate.py run=<run folder> [checkpoint=best|last|<path>] [data=...]."""

from pathlib import Path

from saaae.cli.evaluate import EVALUATE
from saaae.cli.main import main

if __name__ == "__main__":
    main(EVALUATE, Path(__file__).parent / "conf")
