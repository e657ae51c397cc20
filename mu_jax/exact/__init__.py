"""Methods that own their training, and can prove what a removal leaves behind."""

from mu_jax.exact.certified import (
    CertifiedHead,
    certified_head,
    gradient_residual,
    removal_budget,
    remove_certified,
)

__all__ = [
    "CertifiedHead",
    "certified_head",
    "gradient_residual",
    "removal_budget",
    "remove_certified",
]
