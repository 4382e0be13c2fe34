"""Train an image autoencoder: python train.py [group=option] [key=value] [-m]."""

from pathlib import Path

from saaae.cli.main import main
from saaae.cli.train import TRAIN

if __name__ == "__main__":
    main(TRAIN, Path(__file__).parent / "conf")
