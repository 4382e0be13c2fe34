"""Layers that keep the shape of features, independent of any VAE."""
