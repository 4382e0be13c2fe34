"""Builds, trains and tests a run."""
