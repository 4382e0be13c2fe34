"""LightningModules: one chain in `base`, and variants that state only what differs."""
