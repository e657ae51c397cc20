"""Curvature of the mean loss: exact products with vectors."""

from mu_jax.statistics.curvature.products import curvature_product, curvature_sums

__all__ = ["curvature_product", "curvature_sums"]
