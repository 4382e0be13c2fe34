"""Lightning callbacks: checkpoints, random state, pictures, latent health, speed."""
