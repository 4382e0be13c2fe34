"""`python -m saaae`: the console script."""

from saaae.cli.console import main

if __name__ == "__main__":
    main()
