"""The run folder: its files, status, checkpoints and provenance."""
