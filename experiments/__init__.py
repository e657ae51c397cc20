"""Binaries: train, unlearn, evaluate, quickstart."""
