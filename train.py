"""Train an image autoencoder: python train.py [group=option] [key=value] [-m]."""

from pathlib import Path

from saaae.cli.main import open_door
from saaae.cli.train import TRAIN

if __name__ == "__main__":
    open_door(TRAIN, Path(__file__).parent / "conf")
