"""Iterations that read one batch for each product, and not all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mu_jax._tracing import cached
from mu_jax.data.axes import Axis
from mu_jax.data.batches import Batch
from mu_jax.loops.scan import fold, num_batches
from mu_jax.mesh.shards import mesh_of
from mu_jax.solvers.problem import Problem
from mu_jax.statistics.accumulator import mean_of
from mu_jax.statistics.curvature.products import Curvature, curvature_sums, damped
from mu_jax.statistics.over_mesh import over_mesh

PyTree = Any


def fold_products(problem: Problem, rule: Any, state: Any, *, turns: int) -> Any:
    """`state = rule.step(state, product)`, each product with the curvature of the next batch.

    Args:
      problem: of which every batch has a product of its own, damped.
      rule: see `mu_jax.solvers._iterating.Rule`; it is not asked whether it is going.
      state: to start from.
      turns: batches to read, in the order of the data, from the beginning where they end.

    Raises:
      ValueError: fewer batches, where they can be walked through once only.
    """
    data = problem.data
    mesh, axis = getattr(data, "mesh", None), getattr(data, "axis", "data")
    if mesh is None and isinstance(data, list | tuple):
        mesh, axis = mesh_of(data[0]) or (None, axis)
    step = _step(problem.model, problem.curvature, mesh, axis)
    frozen = problem.variables, problem.damping, rule
    epochs = -(-turns // (num_batches(data) or turns))
    return fold(step, state, data, *frozen, epochs=epochs, stop=turns)


@cached(maxsize=64)
def _step(model: Any, curvature: Curvature, mesh: Any, axis: Axis) -> Callable[..., Any]:
    statistic = curvature_sums(model, curvature)

    def step(state: Any, batch: Batch, variables: PyTree, damping: Any, rule: Any) -> Any:
        vector = rule.asks(state)
        given = variables, vector
        if mesh is None:
            found = statistic.update(statistic.init(given), given, batch)
        else:
            spread = over_mesh(statistic, mesh, axis=axis, variables=given)
            found = spread.total(spread.update(spread.init(given), given, batch))
        mean = mean_of(found.sum, found.weight)
        return rule.step(state, jax.tree.map(lambda c, v: damped(jnp, c, v, damping), mean, vector))

    return step
