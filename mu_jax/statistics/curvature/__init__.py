"""Curvature of the mean loss: exact products with vectors, and Kronecker factors."""

from mu_jax.statistics.curvature.factors import (
    KroneckerFactors,
    eigenbases,
    kronecker_factors,
)
from mu_jax.statistics.curvature.inverse import KroneckerInverse
from mu_jax.statistics.curvature.kronecker import ekfac, kfac
from mu_jax.statistics.curvature.layers import KroneckerLayers, kronecker_layers
from mu_jax.statistics.curvature.products import curvature_product, curvature_sums

__all__ = [
    "KroneckerFactors",
    "KroneckerInverse",
    "KroneckerLayers",
    "curvature_product",
    "curvature_sums",
    "eigenbases",
    "ekfac",
    "kfac",
    "kronecker_factors",
    "kronecker_layers",
]
