"""torchmetrics classes over pure functions."""
