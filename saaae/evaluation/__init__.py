"""Tests of trained models, their tables and exports."""
