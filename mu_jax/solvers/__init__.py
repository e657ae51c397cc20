"""Solvers of `(C + damping I) x = v`, with C the curvature of a mean loss."""

from mu_jax.solvers.conjugate_gradients import ConjugateGradientsInfo, conjugate_gradients
from mu_jax.solvers.lissa import LissaInfo, largest_eigenvalue, lissa
from mu_jax.solvers.problem import Preconditioner, Problem, Solution, Solver
from mu_jax.solvers.woodbury import WoodburyInfo, woodbury

__all__ = [
    "ConjugateGradientsInfo",
    "LissaInfo",
    "Preconditioner",
    "Problem",
    "Solution",
    "Solver",
    "WoodburyInfo",
    "conjugate_gradients",
    "largest_eigenvalue",
    "lissa",
    "woodbury",
]
