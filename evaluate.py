"""Test a trained model: python evaluate.py run=<run folder> [checkpoint=best|last|<path>] [data=...]."""

import sys
from pathlib import Path

if __name__ == "__main__":
    try:  # also around the imports, which take the first second
        from saaae.cli.evaluate import EVALUATE
        from saaae.cli.main import main

        main(EVALUATE, Path(__file__).parent / "conf")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
