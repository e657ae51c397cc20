"""Solvers of `(C + damping I) x = v`, with C the curvature of a mean loss."""

from mu_jax.solvers.conjugate_gradients import ConjugateGradientsInfo, conjugate_gradients
from mu_jax.solvers.diagonal import DiagonalInverse, diagonal
from mu_jax.solvers.kronecker import Blocks, KroneckerInfo, ekfac, kfac
from mu_jax.solvers.lissa import LissaInfo, largest_eigenvalue, lissa
from mu_jax.solvers.problem import InverseCurvature, Preconditioner, Problem, Solution, Solver
from mu_jax.solvers.rank_one import RankOneInfo, rank_one_reference
from mu_jax.solvers.woodbury import WoodburyInfo, WoodburyInverse, woodbury

__all__ = [
    "Blocks",
    "ConjugateGradientsInfo",
    "DiagonalInverse",
    "InverseCurvature",
    "KroneckerInfo",
    "LissaInfo",
    "Preconditioner",
    "Problem",
    "RankOneInfo",
    "Solution",
    "Solver",
    "WoodburyInfo",
    "WoodburyInverse",
    "conjugate_gradients",
    "diagonal",
    "ekfac",
    "kfac",
    "largest_eigenvalue",
    "lissa",
    "rank_one_reference",
    "woodbury",
]
