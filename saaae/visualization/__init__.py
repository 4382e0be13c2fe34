"""Pictures of models and data."""
