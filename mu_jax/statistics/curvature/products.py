"""Products of curvature with a vector, streamed over examples: no matrix is ever built."""

from __future__ import annotations

import functools
from typing import Any, Literal, get_args

import jax

from mu_jax._at_once import elementwise
from mu_jax._tracing import cached
from mu_jax.data.batches import Batch, describe
from mu_jax.loops.labels import counted
from mu_jax.losses import total_weight, weighted_sum
from mu_jax.model import Model
from mu_jax.statistics.accumulator import Statistic, mean_of, sum_dtype
from mu_jax.statistics.collecting import collect

PyTree = Any
Curvature = Literal["gauss_newton", "hessian"]


def curvature_product(
    model: Model,
    variables: PyTree,
    data: Any,
    vector: PyTree,
    *,
    curvature: Curvature = "gauss_newton",
    l2: jax.Array | float = 0.0,
) -> PyTree:
    """`C v + l2 v` with `C = sum_i w_i C_i / sum_i w_i`, the curvature of the mean loss.

    | curvature | C_i |
    |---|---|
    | `gauss_newton` | `J_i^T H_i J_i` |
    | `hessian` | the Hessian of the loss in the parameters; indefinite in deep networks |

    `J_i` is the Jacobian of the outputs and `H_i` the Hessian of the loss in the outputs; where the
    loss is convex in the outputs, the Gauss-Newton matrix is positive semidefinite.

    Both are the same for models that are linear in their parameters. For cross-entropy the
    Gauss-Newton matrix is the true Fisher. Sums and weights are divided once, so batch size,
    padding and number of devices do not change the product.

    Args:
      model: the model; inference mode, statistics frozen, dropout off.
      variables: the point at which C is taken.
      data: `Batches`, a `Stream` or an iterable of `Batch`, on a mesh or not.
      vector: v, a tree shaped like the trained parameters.
      curvature: see the table.
      l2: coefficient of `l2/2 |theta|^2` beside the mean loss; default 0, no such term.

    Returns:
      A tree shaped like the parameters, float32 (float64 for float64 parameters).

    Raises:
      ValueError: an unknown curvature, a vector of other variables, a product that is not finite.

    Cost: one pass over the data; `gauss_newton` one forward-mode and one backward pass for each
    example, about one gradient and one forward pass; `hessian` two to three gradients. Narrow
    parameters are widened to float32 first, since products in bfloat16 break iterative solvers.

    References:
      B. Pearlmutter. Fast Exact Multiplication by the Hessian. Neural Computation, 1994.
      N. Schraudolph. Fast Curvature Matrix-Vector Products for Second-Order Gradient Descent.
      Neural Computation, 2002.

    Example:
      >>> import jax.numpy as jnp, optax, mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: x @ w, optax.l2_loss)
      >>> data = mu.batches(jnp.diag(jnp.array([1.0, 3.0])), jnp.ones(2), batch_size=1)
      >>> curvature_product(model, mu.Variables(jnp.zeros(2)), data, jnp.ones(2), l2=0.5)
      Array([1., 5.], dtype=float32)
    """
    check_curvature(curvature)
    params = model.params(variables)
    check_vector(params, vector)
    found = collect(curvature_sums(model, curvature), (variables, vector), data)
    return _damped(vector, found.sum, found.weight, l2)


@cached(maxsize=64)
def curvature_sums(model: Model, curvature: Curvature = "gauss_newton") -> Statistic:
    """`sum_i w_i C_i v` as a statistic: collect it at `(variables, vector)`.

    Args:
      model: the model.
      curvature: `gauss_newton` or `hessian`, see `curvature_product`.

    Returns:
      A `Statistic` of pairs `(variables, vector)`; its value is `C v`.

    Raises:
      ValueError: an unknown curvature.
    """
    product = {"gauss_newton": _gauss_newton, "hessian": _hessian}[check_curvature(curvature)]

    def terms(given, batch):
        variables, vector = given
        batch = counted(model, batch)
        params, state = model.split(variables)
        params, vector = (_widened(tree, params) for tree in (params, vector))
        with jax.default_matmul_precision("highest"):
            found = product(model, params, state, batch, vector)
        return found, total_weight(batch.weight)

    def like(given):
        return model.params(given[0])

    return Statistic(terms, like, f"product with the curvature {curvature!r}")


def check_curvature(curvature: str) -> str:
    """Refuse an unknown curvature."""
    known = get_args(Curvature)
    if curvature not in known:
        raise ValueError(
            f"expected a curvature among {', '.join(known)}, found {curvature!r}: choose one of "
            "them"
        )
    return curvature


def check_vector(params: PyTree, vector: PyTree) -> None:
    """Refuse a vector that belongs to other variables."""

    def shapes(tree):
        return jax.tree.structure(tree), [jax.numpy.shape(leaf) for leaf in jax.tree.leaves(tree)]

    if shapes(params) != shapes(vector):
        raise ValueError(
            f"expected a vector shaped like the trained parameters, {describe(params)}, found "
            f"{describe(vector)}: compute the vector at the same variables, with the same "
            "parameters trained"
        )


def _gauss_newton(
    model: Model, params: PyTree, state: PyTree, batch: Batch, vector: PyTree
) -> PyTree:
    """`sum_i w_i J_i^T H_i J_i v`."""

    def predict(params):
        return model.predict(params, state, batch.inputs)

    outputs, push = jax.linearize(predict, params)
    gradient = jax.grad(functools.partial(_total, model, batch))
    curved = jax.jvp(gradient, (outputs,), (push(vector),))[1]
    return jax.linear_transpose(push, params)(curved)[0]


def _hessian(model: Model, params: PyTree, state: PyTree, batch: Batch, vector: PyTree) -> PyTree:
    """`sum_i w_i H_i v`, forward over reverse."""

    def total(params):
        return _total(model, batch, model.for_loss(params, state, batch.inputs))

    return jax.jvp(jax.grad(total), (params,), (vector,))[1]


def _total(model: Model, batch: Batch, outputs: PyTree) -> jax.Array:
    return weighted_sum(model.per_example(outputs, batch), batch.weight)


def _widened(tree: PyTree, params: PyTree) -> PyTree:
    """Leaves in the types of the sums of these parameters."""
    return jax.tree.map(lambda x, p: x.astype(sum_dtype(p.dtype)), tree, params)


@elementwise
def _damped(xp: Any, vector: PyTree, total: PyTree, weight: jax.Array, l2: Any) -> PyTree:
    return jax.tree.map(lambda v, mean: damped(xp, mean, v, l2), vector, mean_of(total, weight))


def damped(xp: Any, mean: Any, v: Any, l2: Any) -> Any:
    """`mean + l2 v` for one leaf, in the type of the mean."""
    return mean + xp.asarray(l2, mean.dtype) * v.astype(mean.dtype)
