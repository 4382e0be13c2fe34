"""Shape-in, shape-out blocks that have never heard of a VAE."""
