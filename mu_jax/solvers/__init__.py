"""Solvers of `(C + damping I) x = v`, with C the curvature of a mean loss."""

from mu_jax.solvers.problem import Preconditioner, Problem, Solution, Solver

__all__ = ["Preconditioner", "Problem", "Solution", "Solver"]
