"""Exact sums over examples of squared gradients, without forming the gradients."""
