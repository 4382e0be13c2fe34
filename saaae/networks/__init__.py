"""Encoders and decoders made of layers; no sampling, no loss."""
