"""What a solver solves, and what it returns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax

from mu_jax.data.checks import check_range
from mu_jax.model import Model
from mu_jax.statistics.curvature.products import (
    Curvature,
    check_curvature,
    check_vector,
    curvature_product,
)

PyTree = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Problem:
    """The linear system `(C + damping I) x = v`, with C the curvature of the mean loss over `data`.

    A pytree where `data` is `Batches`, so it goes through `jit` and `vmap`.

    Attributes:
      model: how to compute.
      variables: the point at which the curvature is taken.
      data: `Batches`, a `Stream` or an iterable of `Batch` that can be walked through many times.
      curvature: "gauss_newton" or "hessian", see `mu.statistics.curvature.curvature_product`.
      damping: f[], may be traced; the coefficient of an l2 term of the objective is part of it.

    Raises:
      ValueError: an unknown curvature, a negative damping.

    Example:
      >>> import jax.numpy as jnp, optax, mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: x @ w, optax.l2_loss)
      >>> data = mu.batches(2 * jnp.eye(2), jnp.ones(2), batch_size=2)
      >>> problem = Problem(model, mu.Variables(jnp.zeros(2)), data, "gauss_newton", 1.0)
      >>> problem.product(jnp.array([1.0, 2.0]))
      Array([3., 6.], dtype=float32)
    """

    model: Model = dataclasses.field(metadata={"static": True})
    variables: PyTree
    data: Any
    curvature: Curvature = dataclasses.field(default="gauss_newton", metadata={"static": True})
    damping: jax.Array | float = 0.0

    def __post_init__(self) -> None:
        check_curvature(self.curvature)
        if isinstance(self.damping, int | float):
            check_range(0, damping=self.damping)

    def product(self, vector: PyTree) -> PyTree:
        """`((sum_i w_i C_i / sum_i w_i) + damping I) vector`: one pass over `data`.

        Float32 at least, whatever the type of the parameters.
        """
        return curvature_product(
            self.model,
            self.variables,
            self.data,
            vector,
            curvature=self.curvature,
            l2=self.damping,
        )

    @property
    def params(self) -> PyTree:
        """The trained parameters, of which a vector has the shape."""
        return self.model.params(self.variables)

    def check(self, vector: PyTree) -> None:
        """Refuse a vector of other variables; a solver calls this first.

        Raises:
          ValueError: another tree, or leaves of other shapes.
        """
        check_vector(self.params, vector)


class Solution(NamedTuple):
    """What a solver found.

    Attributes:
      value: x, a tree shaped like the parameters, in float32 at least.
      details: a NamedTuple of arrays: what the solver reports of itself. Its `messages()`, where
        there is such a method, are sentences on what went wrong.
    """

    value: PyTree
    details: Any = ()


class Solver(Protocol):
    """Solves `(C + damping I) x = v`: a frozen dataclass, called as `solver(problem, vector)`."""

    def __call__(self, problem: Problem, vector: PyTree) -> Solution:
        """An x, and what the solver reports of itself."""


@dataclasses.dataclass(frozen=True)
class InverseCurvature:
    """A solver with the damping and the curvature that it is to invert, for `mu.iau`.

    Args:
      solver: such as `mu.solvers.conjugate_gradients()`.
      damping: added to the curvature; default 1e-2, as of `mu.influence`. May be traced.
      curvature: "gauss_newton" (default) or "hessian".

    Raises:
      ValueError: an unknown curvature, a negative damping.
    """

    solver: Solver
    damping: jax.Array | float = 1e-2
    curvature: Curvature = "gauss_newton"

    def __post_init__(self) -> None:
        check_curvature(self.curvature)
        check_range(0, damping=self.damping)

    def __call__(self, model: Model, variables: PyTree, data: Any, vector: PyTree) -> Solution:
        """The inverse curvature of the mean loss over `data` times a vector."""
        problem = Problem(model, variables, data, self.curvature, self.damping)
        return self.solver(problem, vector)


Inverse = Callable[[PyTree], PyTree]


@runtime_checkable
class Preconditioner(Protocol):
    """A solver that collects something once and then applies a fixed linear inverse.

    `prepare(problem)` returns a pytree that is called on trees, `inverse(vector) -> tree`, such as
    an instance of a registered dataclass. It is symmetric and positive definite.
    `mu.solvers.conjugate_gradients(preconditioner=...)` takes any such solver.
    """

    def prepare(self, problem: Problem) -> Inverse:
        """Collect what the inverse needs."""
