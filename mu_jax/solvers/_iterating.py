"""The one loop of the iterative solvers: one product with the curvature for each turn.

A rule says what to multiply, and what to do with the product. The same rule runs inside one program
where the data are arrays, and around a loop on the host where they are streamed.
"""

from __future__ import annotations

from typing import Any, Protocol

import jax
import jax.numpy as jnp

from mu_jax._tracing import compiled
from mu_jax.data.batches import Batches
from mu_jax.data.checks import check_repeatable
from mu_jax.loops.recording import is_recording, repeated
from mu_jax.mesh.shards import reduction
from mu_jax.solvers.problem import Problem
from mu_jax.statistics.accumulator import sum_dtype
from mu_jax.statistics.collecting import on_mesh

PyTree = Any


class Rule(Protocol):
    """An iteration, as a pytree: a registered dataclass that holds its numbers and arrays."""

    def going(self, state: Any) -> jax.Array:
        """Whether another turn is needed, bool[]."""

    def asks(self, state: Any) -> PyTree:
        """The vector to multiply in this turn."""

    def step(self, state: Any, product: PyTree) -> Any:
        """The next state."""


def iterate(problem: Problem, rule: Rule, state: Any, *, turns: int) -> Any:
    """Turn `state = rule.step(state, problem.product(rule.asks(state)))` while it is going.

    Args:
      problem, rule: what is multiplied, and what is done with products.
      state: to start from.
      turns: how many there are at most, for `mu_jax.loops.recording.record`.
    """
    data = problem.data
    if is_recording():
        with repeated(turns):
            return rule.step(state, problem.product(rule.asks(state)))
    if isinstance(data, Batches):
        given = problem.variables, data, problem.damping, rule, state
        if data.mesh is not None:
            given = on_mesh(data.mesh, given)
        return _in_one_program((problem.model, problem.curvature), *given)
    check_repeatable(data)
    while _going(rule, state):
        state = _step(rule, state, problem.product(_asks(rule, state)))
    return state


@compiled
def _in_one_program(static, variables, data, damping, rule, state):
    model, curvature = static
    problem = Problem(model, variables, data, curvature, damping)

    def body(state):
        return rule.step(state, problem.product(rule.asks(state)))

    return jax.lax.while_loop(rule.going, body, state)


_going = jax.jit(lambda rule, state: rule.going(state))
_asks = jax.jit(lambda rule, state: rule.asks(state))
_step = jax.jit(lambda rule, state, product: rule.step(state, product))


@reduction
def dot(xp: Any, first: PyTree, second: PyTree) -> jax.Array:
    """`<first, second>` over all leaves, f[]; products entry by entry, in full precision."""
    leaves = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    parts = [xp.sum(a * b) for a, b in leaves]
    return sum(parts[1:], start=parts[0])


def norm(tree: PyTree) -> jax.Array:
    """`|tree|`, f[]."""
    return jnp.sqrt(dot(tree, tree))


def wide(vector: PyTree) -> PyTree:
    """A vector in float32 at least."""
    return jax.tree.map(lambda x: jnp.asarray(x, sum_dtype(jnp.result_type(x))), vector)


def added(first: PyTree, scale: jax.Array, second: PyTree) -> PyTree:
    """`first + scale second`."""
    return jax.tree.map(lambda a, b: a + scale.astype(a.dtype) * b, first, second)


def chosen(condition: jax.Array, first: PyTree, second: PyTree) -> PyTree:
    """`first` where the condition holds, else `second`."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), first, second)
