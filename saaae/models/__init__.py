"""Torch models, their variants, and the LightningModule that trains them."""
