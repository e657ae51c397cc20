"""Leave-out formulas of models that are linear in their parameters: oracles for attribution."""

from __future__ import annotations

import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from mu_jax._at_once import wide
from mu_jax.data.batches import is_concrete

Reduction = Literal["sum", "mean"]


def ridge_without(
    inputs: ArrayLike,
    targets: ArrayLike,
    params: ArrayLike,
    forget: ArrayLike,
    *,
    l2: float,
    reduction: Reduction = "sum",
) -> jax.Array:
    """The ridge regression without a group of rows, exactly.

    For the minimizer theta of `1/2 sum_i (y_i - x_i . theta)^2 + l2/2 |theta|^2` and
    `H = X^T X + l2 I`,
    `theta_{-F} = theta - H^-1 X_F^T (I - X_F H^-1 X_F^T)^-1 (y_F - X_F theta)`. Beside the *mean*
    of the losses the penalty of n - m rows is lighter, and one Newton step leads there exactly,
    `theta_{-F} = theta - (X_K^T X_K + (n - m) l2 I)^-1 (X_F^T (y_F - X_F theta) - m l2 theta)`.

    Args:
      inputs: f[n, d]. targets: f[n] or f[n, t]. params: f[d] or f[d, t], the minimizer.
      forget: int[m], rows that leave.
      l2: weight of the penalty; it stays as it is.
      reduction: what the penalty stands beside, the "sum" of the losses or their "mean".

    Returns:
      The minimizer without the group, shaped like `params`.

    Cost: `n d^2 + d^3 / 3 + m^3 / 3` operations.

    Example:
      >>> x, y = jnp.array([[1.0], [1.0], [1.0]]), jnp.array([0.0, 3.0, 6.0])
      >>> without = ridge_without(x, y, jnp.array([9.0 / 4]), jnp.array([2]), l2=1.0)
      >>> round(float(without[0]), 5)
      1.0
    """
    x, y, theta = (jnp.asarray(a) for a in (inputs, targets, params))
    _check_rows(x, y)
    rows = _checked_group(forget, len(x))
    left, residual = x[rows], y[rows] - _product(x[rows], theta)
    if _checked_reduction(reduction) == "mean":
        matrix = _hessian(x, (len(x) - len(rows)) * l2) - _product(left.T, left)
        gradient = _product(left.T, residual) - len(rows) * l2 * theta
        return theta - jax.scipy.linalg.solve(matrix, gradient, assume_a="pos")
    moved = jax.scipy.linalg.solve(_hessian(x, l2), left.T, assume_a="pos")
    small = jnp.eye(len(rows), dtype=x.dtype) - _product(left, moved)
    return theta - _product(moved, jax.scipy.linalg.solve(small, residual, assume_a="pos"))


def ridge_leverages(inputs: ArrayLike, *, l2: float, reduction: Reduction = "sum") -> jax.Array:
    """Leverages `h_i = x_i^T (X^T X + l2 I)^-1 x_i` in [0, 1], f[n].

    The residual of a ridge regression on an example it was not trained on is
    `(y_i - x_i . theta) / (1 - h_i)`.

    Args:
      inputs: f[n, d].
      l2: weight of the penalty.
      reduction: what the penalty stands beside, the "sum" of the losses or their "mean", where
        `n l2` takes the place of l2 and of the penalty of n - 1 rows too.

    Example:
      >>> ridge_leverages(jnp.array([[1.0], [1.0], [1.0]]), l2=1.0)
      Array([0.25, 0.25, 0.25], dtype=float32)
    """
    x = jnp.asarray(inputs)
    l2 = l2 * len(x) if _checked_reduction(reduction) == "mean" else l2
    solved = jax.scipy.linalg.solve(_hessian(x, l2), x.T, assume_a="pos")
    return jnp.sum(x * solved.T, axis=1)


def softmax_without(
    inputs: ArrayLike,
    labels: ArrayLike,
    params: ArrayLike,
    forget: ArrayLike,
    *,
    l2: float,
    hessian: Literal["retain", "full"] = "retain",
    reduction: Reduction = "sum",
) -> jax.Array:
    """Softmax regression without a group of rows, by one step from the minimizer.

    For the minimizer W of `sum_i l(x_i W, y_i) + l2/2 |W|^2`, cross-entropy l,
    `W_{-F} ~ W + (H - H_F)^-1 sum_{i in F} grad l_i`: a Newton step on what is retained. With the
    Hessian H of all data it is the influence function, which falls short for large groups. H holds
    the penalty. Beside the *mean* of the losses the penalty of fewer rows is lighter: W then
    minimizes the sum with n l2, the step is `(H - H_F)^-1 (sum_{i in F} grad l_i + m l2 W)` with
    `(n - m) l2` in the Hessian of what is retained, n l2 in that of all.

    Args:
      inputs: f[n, d]. labels: int[n]. params: f[d, K], the minimizer.
      forget: int[m], rows that leave.
      l2: weight of the penalty; positive, as logits have a common shift.
      hessian: "retain" (Newton) or "full" (influence function).
      reduction: what the penalty stands beside, the "sum" of the losses or their "mean".

    Returns:
      f[d, K].

    Cost: `n (d K)^2 + (d K)^3 / 3` operations, memory of `(d K)^2`.

    Example:
      >>> x, y = jnp.eye(2), jnp.array([0, 1])
      >>> softmax_without(x, y, jnp.zeros((2, 2)), jnp.array([0]), l2=1.0)
      Array([[-0.5,  0.5],
             [ 0. ,  0. ]], dtype=float32)
    """
    if hessian not in ("retain", "full"):
        raise ValueError(
            f"expected hessian 'retain' or 'full', found {hessian!r}: choose Newton or influence"
        )
    x, labels, weights = jnp.asarray(inputs), wide(jnp.asarray(labels)), jnp.asarray(params)
    _check_rows(x, labels)
    rows = _checked_group(forget, len(x))
    mean = _checked_reduction(reduction) == "mean"
    return _softmax_step(x, labels, weights, rows, l2, hessian == "retain", mean)


@functools.partial(jax.jit, static_argnums=(5, 6))
def _softmax_step(
    x: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
    rows: jax.Array,
    l2: float,
    retained: bool,
    mean: bool,
) -> jax.Array:
    """The step of `softmax_without`, with the Hessian of what is retained or of all rows."""
    probabilities = jax.nn.softmax(_product(x, weights))
    errors = probabilities - jax.nn.one_hot(labels, weights.shape[1], dtype=x.dtype)
    kept = jnp.ones(len(x), x.dtype)
    if retained:
        kept = kept.at[rows].set(0)
    outer = jnp.einsum("na,ab->nab", probabilities, jnp.eye(weights.shape[1], dtype=x.dtype))
    outer = (outer - jnp.einsum("na,nb->nab", probabilities, probabilities)) * kept[:, None, None]
    matrix = jnp.einsum("ni,nab,nj->iajb", x, outer, x, precision="highest")
    matrix = matrix.reshape(weights.size, weights.size)
    gradient = _product(x[rows].T, errors[rows]).ravel()
    penalty: float = l2
    if mean:
        penalty = l2 * (len(x) - len(rows) if retained else len(x))
        gradient = gradient + len(rows) * l2 * weights.ravel()
    matrix = matrix + penalty * jnp.eye(weights.size, dtype=x.dtype)
    return weights + jax.scipy.linalg.solve(matrix, gradient, assume_a="pos").reshape(weights.shape)


def _checked_reduction(reduction: Reduction) -> Reduction:
    if reduction not in ("sum", "mean"):
        raise ValueError(
            f"expected reduction 'sum' or 'mean', found {reduction!r}: say what the penalty stands "
            "beside"
        )
    return reduction


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision="highest")


def _hessian(x: jax.Array, l2: float) -> jax.Array:
    return _product(x.T, x) + l2 * jnp.eye(x.shape[1], dtype=x.dtype)


def _check_rows(inputs: jax.Array, targets: jax.Array) -> None:
    if inputs.ndim != 2 or len(targets) != len(inputs):
        raise ValueError(
            f"expected inputs [n, d] and one target for each row, found {inputs.shape} and "
            f"{targets.shape}: flatten the inputs and give as many targets"
        )


def _checked_group(forget: ArrayLike, size: int) -> jax.Array:
    rows = jnp.asarray(forget)
    if rows.ndim != 1 or not jnp.issubdtype(rows.dtype, jnp.integer):
        raise ValueError(
            f"expected row numbers int[m] to forget, found {rows.dtype}{list(rows.shape)}: give "
            "positions, not a mask"
        )
    if is_concrete(rows):
        values = np.asarray(rows)
        if np.unique(values).size != values.size or values.min() < 0 or values.max() >= size:
            raise ValueError(
                f"expected different row numbers below {size}, found repeated ones or ones out of "
                "range: name each row once"
            )
    return rows
