"""LightningDataModules: images in memory, served as whole batches, corrupted on the device."""
