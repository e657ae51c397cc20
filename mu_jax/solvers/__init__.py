"""Solvers of `(C + damping I) x = v`, with C the curvature of a mean loss."""

from mu_jax.solvers.conjugate_gradients import ConjugateGradientsInfo, conjugate_gradients
from mu_jax.solvers.diagonal import DiagonalInverse, diagonal
from mu_jax.solvers.lissa import LissaInfo, largest_eigenvalue, lissa
from mu_jax.solvers.problem import InverseCurvature, Preconditioner, Problem, Solution, Solver
from mu_jax.solvers.rank_one import RankOneInfo, rank_one_reference
from mu_jax.solvers.woodbury import WoodburyInfo, WoodburyInverse, woodbury

__all__ = [
    "ConjugateGradientsInfo",
    "DiagonalInverse",
    "InverseCurvature",
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
    "largest_eigenvalue",
    "lissa",
    "rank_one_reference",
    "woodbury",
]
