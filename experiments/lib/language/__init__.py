"""Helpers of `experiments.language`: tasks, populations of decoders, tables and the picture."""
