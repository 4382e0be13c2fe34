"""Train an image autoencoder: python train.py [group=option] [key=value] [-m]."""

import sys

if __name__ == "__main__":
    try:  # also around the imports, which take the first second
        from saaae.cli.main import main
        from saaae.cli.train import TRAIN
        from saaae.config.folder import config_folder

        main(TRAIN, config_folder())
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
