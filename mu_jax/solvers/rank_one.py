"""The degenerate recursion that is published as WoodFisher unlearning, for comparisons alone."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mu_jax._tracing import compiled
from mu_jax.data.checks import check_counts
from mu_jax.loops.labels import counted
from mu_jax.solvers._iterating import added, wide
from mu_jax.solvers.problem import Problem, Solution
from mu_jax.solvers.woodbury import Rows, first_rows

PyTree = Any


class RankOneInfo(NamedTuple):
    """What the recursion came to.

    Attributes:
      coefficient: s in `k = v - s g_0`, f[].
      products: passes over the rows, i32[].
    """

    coefficient: jax.Array
    products: jax.Array


@dataclasses.dataclass(frozen=True)
class rank_one_reference:
    """`k = v - s g_0`: what a published program of "WoodFisher" unlearning computes. No curvature.

    The program means to apply `(I + sum_j g_j g_j^T / N)^-1` by rank-one updates, with one gradient
    g_j for each retained example, but keeps one vector o where the recursion needs all m of them:

        o = g_0, k = v
        for j = 1, ..., m - 1:   t = N + o^T g_j
                                 k <- k - (k^T g_j / t) o
                                 o <- o - (o^T g_j / t) o

    o is only ever scaled, so o stays a multiple of the first gradient g_0, and k ends as v minus a
    number times g_0: the gradient of one example is taken off, and nothing else. On a small network
    this misses 99.8 % of the correction that the recursion should make. The step `alpha k` is then
    a first-order step whose size alpha was tuned by hand, and tables with this "influence
    unlearning" show that. Here the same k comes from its two numbers for each row,
    `g_0^T g_j` and `v^T g_j`.

    For comparisons with published tables. The inverse that was meant is `mu.solvers.woodbury`;
    curvature is `mu.solvers.conjugate_gradients`.

    Args:
      examples: m, at most; the first rows of the data. Default 1002, the program's.
      constant: N, default 1000, the program's for all small data sets.

    Returns:
      `solver(problem, vector) -> Solution`; its `details` are a `RankOneInfo`. Curvature and
      damping of the problem are not read.

    Raises:
      ValueError: a vector of other variables.

    Cost: one backward pass, and two forward-mode passes over m rows.

    Differences from the reference program (`OPTML-Group/Unlearn-Sparse`, `unlearn/Wfisher.py`):
      1. The rows come in the order of the data; there the loader shuffles them, so that g_0 is a
         random example.

    References:
      J. Jia, J. Liu, P. Ram, Y. Yao, G. Liu, Y. Liu, P. Sharma, S. Liu. Model Sparsity Can Simplify
      Machine Unlearning. NeurIPS 2023.

    Example:
      >>> import jax.numpy as jnp, numpy as np, optax, mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: x @ w, optax.l2_loss)
      >>> data = mu.batches(jnp.array([[1.0, 0], [1.0, 1.0]]), jnp.ones(2), batch_size=2)
      >>> problem = mu.solvers.Problem(model, mu.Variables(jnp.zeros(2)), data)
      >>> value, _ = rank_one_reference(constant=1)(problem, jnp.ones(2))
      >>> np.asarray(value).tolist()  # nothing happened along the second axis
      [0.0, 1.0]
    """

    _: dataclasses.KW_ONLY
    examples: int = 1002
    constant: int = 1000

    def __post_init__(self) -> None:
        check_counts(1, examples=self.examples, constant=self.constant)

    def __call__(self, problem: Problem, vector: PyTree) -> Solution:
        """The k for v."""
        problem.check(vector)
        batch = first_rows(problem.data, self.examples)
        return _recursion(problem.model, problem.variables, batch, wide(vector), self.constant)


@compiled
def _recursion(model, variables, batch, vector, constant):
    batch = counted(model, batch)
    some = batch.weight > 0
    is_first = jnp.arange(len(some)) == some.argmax()
    rows = Rows(model, variables, batch._replace(weight=some.astype(batch.weight.dtype)))
    onto_v = rows.times(vector)
    first = rows.transposed(is_first.astype(onto_v.dtype))
    onto_first = rows.times(first)

    def turn(state, row):
        scale, coefficient = state
        a, b = row
        t = constant + scale * a
        coefficient += scale * (b - coefficient * a) / t
        return (scale - scale * scale * a / t, coefficient), None

    start = jnp.ones((), onto_v.dtype), jnp.zeros((), onto_v.dtype)
    later = jnp.where(is_first, 0, jnp.stack([onto_first, onto_v])).T
    (_, coefficient), _ = jax.lax.scan(turn, start, (later[:, 0], later[:, 1]))
    details = RankOneInfo(coefficient, jnp.int32(3))
    return Solution(added(vector, -coefficient, first), details)
