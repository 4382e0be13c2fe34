"""`saaae despeckle`: the packaged model on radar images."""

from saaae.cli.console import ConsoleCommand
from saaae.cli.predict import Despeckle, despeckle

COMMAND = ConsoleCommand(
    Despeckle, despeckle, positional=("images", "to"), example='saaae despeckle "images=scenes/*.tif" to=despeckled'
)
