"""SAAAE: image autoencoders on PyTorch Lightning and Hydra."""
