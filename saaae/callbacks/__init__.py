"""What watches a run: checkpoints, random state, pictures, health, speed."""
