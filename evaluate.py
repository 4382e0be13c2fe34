"""Test a trained model: python evaluate.py run=<run folder> [checkpoint=best|last|<path>] [data=...]."""

import sys

if __name__ == "__main__":
    try:  # also around the imports, which take the first second
        from saaae.cli.evaluate import EVALUATE
        from saaae.cli.main import main
        from saaae.config.folder import config_folder

        main(EVALUATE, config_folder())
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
