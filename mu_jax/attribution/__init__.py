"""Data attribution: what each training example, or a group of them, does to a model's outputs."""

from mu_jax.attribution.datamodels import Datamodels, difference_of_means, ridge, with_ids
from mu_jax.attribution.group_effects import (
    Directions,
    gauss_newton_direction,
    group_effect,
    mean_group_effect,
    multiplier,
)
from mu_jax.attribution.influence_scores import influence_scores
from mu_jax.attribution.lasso import lasso
from mu_jax.attribution.lds import LDS, lds, spearman
from mu_jax.attribution.linear import ridge_leverages, ridge_without, softmax_without
from mu_jax.attribution.scores import el2n, forgetting_events, grand, memorization
from mu_jax.attribution.subsets import balanced_masks
from mu_jax.attribution.trak import Checkpoint, Trak, group_direction, trak
from mu_jax.attribution.trak_scores import trak_scores

__all__ = [
    "LDS",
    "Checkpoint",
    "Datamodels",
    "Directions",
    "Trak",
    "balanced_masks",
    "difference_of_means",
    "el2n",
    "forgetting_events",
    "gauss_newton_direction",
    "grand",
    "group_direction",
    "group_effect",
    "influence_scores",
    "lasso",
    "lds",
    "mean_group_effect",
    "memorization",
    "multiplier",
    "ridge",
    "ridge_leverages",
    "ridge_without",
    "softmax_without",
    "spearman",
    "trak",
    "trak_scores",
    "with_ids",
]
