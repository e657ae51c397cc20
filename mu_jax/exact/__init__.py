"""Methods that own their training, and can prove what a removal leaves behind."""

from mu_jax.exact.certified import (
    CertifiedHead,
    certified_head,
    gradient_residual,
    removal_budget,
    remove_certified,
)
from mu_jax.exact.orders import matched_orders, order_score, rotations
from mu_jax.exact.planning import (
    S3TPlan,
    Simulated,
    Survived,
    chance_to_answer,
    deletions_survived,
    plan_s3t,
    simulate_deletions,
    sisa_cost,
    stage_epochs,
)
from mu_jax.exact.requests import ExactInfo, Spent
from mu_jax.exact.s3t import s3t
from mu_jax.exact.s3t_protocol import S3T, S3TInfo, S3TVariables
from mu_jax.exact.sisa import sisa
from mu_jax.exact.sisa_protocol import SISA, SISAInfo, SISAVariables
from mu_jax.exact.voting import combined

__all__ = [
    "S3T",
    "SISA",
    "CertifiedHead",
    "ExactInfo",
    "S3TInfo",
    "S3TPlan",
    "S3TVariables",
    "SISAInfo",
    "SISAVariables",
    "Simulated",
    "Spent",
    "Survived",
    "certified_head",
    "chance_to_answer",
    "combined",
    "deletions_survived",
    "gradient_residual",
    "matched_orders",
    "order_score",
    "plan_s3t",
    "removal_budget",
    "remove_certified",
    "rotations",
    "s3t",
    "simulate_deletions",
    "sisa",
    "sisa_cost",
    "stage_epochs",
]
