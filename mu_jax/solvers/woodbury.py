"""The empirical Fisher of m examples, inverted exactly by the Woodbury identity."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.linalg
import numpy as np

from mu_jax._tracing import compiled
from mu_jax.data.batches import Batch, Batches, in_memory, is_concrete
from mu_jax.data.checks import check_counts
from mu_jax.loops.labels import counted
from mu_jax.losses import total_weight
from mu_jax.model import Model
from mu_jax.solvers._iterating import added, norm, wide
from mu_jax.solvers.problem import Problem, Solution

PyTree = Any


class WoodburyInfo(NamedTuple):
    """What the Woodbury identity found.

    Attributes:
      examples: rows of the low-rank matrix that count, f[].
      products: passes over these rows, i32[]: two for each of them.
      residual_norm: `|v - (F + damping I) x| / |v|`, of rounding alone, f[].
    """

    examples: jax.Array
    products: jax.Array
    residual_norm: jax.Array

    def messages(self) -> list[str]:
        """A sentence where rounding is as large as the answer."""
        residual = np.asarray(self.residual_norm)
        if not np.all(residual < 1e-2):
            return [
                f"The Woodbury identity left a residual of {residual.max():.1e} of the right-hand "
                "side by rounding: raise damping, or compute in float64."
            ]
        return []


@dataclasses.dataclass(frozen=True)
class woodbury:
    """`(F + damping I)^-1 v` with the empirical Fisher `F = sum_i w_i g_i g_i^T / sum_i w_i`.

    With the gradients of the first m examples as rows of G (scaled by `sqrt(w_i / sum w)`),

        (d I + G^T G)^-1 v = (v - G^T (d I + G G^T)^-1 G v) / d

    which is exact for these m. G is never stored: `G v` is one forward-mode product of the losses,
    `G^T c` one backward pass, and `G G^T` takes one of each for every row.

    The empirical Fisher is no curvature: it takes the labels of the data, so it vanishes where the
    model fits them, and it may be far from the Hessian. It stands in for the curvature of the
    problem, whose `curvature` is not read. As a preconditioner of conjugate gradients it costs
    accuracy nothing.

    Args:
      examples: m, at most; the first m rows of the data of the problem. Default 256.

    Returns:
      `solver(problem, vector) -> Solution`; its `details` are a `WoodburyInfo`.

    Raises:
      ValueError: a damping of 0, a vector of other variables.

    Cost: `prepare` m backward passes of one row and m forward-mode passes of m rows, memory of m^2
    numbers and the m rows; a solve two passes over them.

    Differences from the published program of this name (`OPTML-Group/Unlearn-Sparse`): it computes
    the inverse, see `mu.solvers.rank_one_reference`.

    References:
      S. P. Singh, D. Alistarh. WoodFisher: Efficient Second-Order Approximation for Neural Network
      Compression. NeurIPS 2020. F. Kunstner, L. Balles, P. Hennig. Limitations of the Empirical
      Fisher Approximation for Natural Gradient Descent. NeurIPS 2019.

    Example:
      >>> import jax.numpy as jnp, numpy as np, optax, mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: x @ w, optax.l2_loss)
      >>> data = mu.batches(jnp.eye(2), jnp.array([1.0, 3.0]), batch_size=2)
      >>> problem = mu.solvers.Problem(model, mu.Variables(jnp.zeros(2)), data, damping=0.5)
      >>> value, _ = woodbury()(problem, jnp.ones(2))  # F is diag(1/2, 9/2)
      >>> np.asarray(value).round(4).tolist()
      [1.0, 0.20000000298023224]
    """

    _: dataclasses.KW_ONLY
    examples: int = 256

    def __post_init__(self) -> None:
        check_counts(1, examples=self.examples)

    def __call__(self, problem: Problem, vector: PyTree) -> Solution:
        """Solve for `vector`."""
        problem.check(vector)
        inverse = self.prepare(problem)
        return _solved(problem.model, inverse, wide(vector))

    def prepare(self, problem: Problem) -> WoodburyInverse:
        """The inverse of these variables and rows, to be applied to any vector."""
        damping = problem.damping
        if is_concrete(damping) and not np.all(np.asarray(damping) > 0):
            raise ValueError(
                f"expected a damping above 0, found {damping}: a matrix of few examples has no "
                "inverse without it, so give one"
            )
        batch = first_rows(problem.data, self.examples)
        args = problem.variables, batch, jnp.asarray(damping)
        return _prepared(problem.model, *args)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class WoodburyInverse:
    """`v -> (F + damping I)^-1 v`, a pytree.

    Attributes:
      model: how to compute. variables: the point. batch: the m rows, weighted `w_i / sum w`.
      factor: f[m, m], the Cholesky factor of `damping I + G G^T`. damping: f[].
    """

    model: Model = dataclasses.field(metadata={"static": True})
    variables: PyTree
    batch: Batch
    factor: jax.Array
    damping: jax.Array

    def __call__(self, vector: PyTree) -> PyTree:
        """The inverse times a vector."""
        rows = Rows(self.model, self.variables, self.batch)
        inner = jax.scipy.linalg.cho_solve((self.factor, True), rows.times(vector))
        rest = added(vector, jnp.float32(-1), rows.transposed(inner))
        return jax.tree.map(lambda x: x / self.damping.astype(x.dtype), rest)


class Rows:
    """G, the gradients of the losses, each times the root of its weight."""

    def __init__(self, model: Model, variables: PyTree, batch: Batch):
        params, self._state = model.split(variables)
        self._model, self._batch, self._params = model, batch, wide(params)

    def _losses(self, params: PyTree) -> jax.Array:
        batch = self._batch
        outputs = self._model.for_loss(params, self._state, batch.inputs)
        losses = self._model.per_example(outputs, batch)
        weight = batch.weight.astype(losses.dtype)
        return jnp.where(weight > 0, losses, 0) * jnp.sqrt(weight)

    def times(self, vector: PyTree) -> jax.Array:
        """`G v`, f[m]."""
        with jax.default_matmul_precision("highest"):
            return jax.jvp(self._losses, (self._params,), (vector,))[1]

    def transposed(self, inner: jax.Array) -> PyTree:
        """`G^T c`, a tree."""
        with jax.default_matmul_precision("highest"):
            return jax.vjp(self._losses, self._params)[1](inner)[0]

    def gram(self) -> jax.Array:
        """`G G^T`, f[m, m], one column after another."""
        kind = jax.eval_shape(self._losses, self._params)
        basis = jnp.eye(kind.shape[0], dtype=kind.dtype)
        return jax.lax.map(lambda row: self.times(self.transposed(row)), basis)


def first_rows(data: Any, number: int) -> Batch:
    """The first rows of a set, as one batch on no mesh."""
    if hasattr(data, "take"):
        data = data.take(np.arange(min(number, data.num_examples)))
    kept: Batches = in_memory(data)
    kept = kept.take(np.arange(min(number, kept.num_examples)))
    return Batch(kept.inputs, kept.targets, kept.weight, kept.index)


@compiled
def _prepared(model, variables, batch, damping):
    batch = counted(model, batch)
    batch = batch._replace(weight=batch.weight / total_weight(batch.weight))
    gram = Rows(model, variables, batch).gram()
    factor = jnp.linalg.cholesky(gram + damping.astype(gram.dtype) * jnp.eye(len(gram)))
    return WoodburyInverse(model, variables, batch, factor, damping)


@compiled
def _solved(model, inverse, vector):
    value, m = inverse(vector), inverse.factor.shape[0]
    rows = Rows(model, inverse.variables, inverse.batch)
    again = added(rows.transposed(rows.times(value)), inverse.damping, value)
    left = norm(added(vector, jnp.float32(-1), again))
    size = norm(vector)
    details = WoodburyInfo(
        examples=(inverse.batch.weight > 0).sum().astype(jnp.float32),
        products=jnp.int32(2 * m + 2),
        residual_norm=left / jnp.where(size > 0, size, 1),
    )
    return Solution(value, details)
