"""Configurations of the experiments, one task a file."""
