"""Learning rate and weight decay across widths: tuned at one width, used at every other."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mu_jax.data.checks import check_counts, check_range
from mu_jax.model import path_name

PyTree = Any
MatrixLike = Callable[[str, Any], bool]


def is_matrix(name: str, leaf: Any) -> bool:
    """Whether a parameter has two axes or more and is no embedding, by its name.

    By this rule the first and the last layer count as matrices; where one of their axes is not the
    width, give a rule that leaves them out.

    Example:
      >>> found = [is_matrix(name, jnp.zeros(shape)) for name, shape in
      ...          {"dense/kernel": (4, 4), "dense/bias": (4,), "embed/embedding": (9, 4)}.items()]
      >>> found
      [True, False, False]
    """
    return jnp.ndim(leaf) >= 2 and "embed" not in name.lower()


def parameter_groups(params: PyTree, matrix_like: MatrixLike = is_matrix) -> PyTree:
    """The group of every parameter, "matrix" or "vector", as labels of `optax.multi_transform`.

    Args:
      params: a tree of arrays, or of their shapes.
      matrix_like: `(name, leaf) -> bool` over names such as `Dense_0/kernel`.

    Example:
      >>> parameter_groups({"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)})
      {'bias': 'vector', 'kernel': 'matrix'}
    """

    def label(path, leaf):
        return "matrix" if matrix_like(path_name(path), leaf) else "vector"

    return jax.tree_util.tree_map_with_path(label, params)


def across_widths(
    width: int,
    base_width: int,
    *,
    learning_rate: jax.Array | float | optax.Schedule,
    weight_decay: jax.Array | float = 0.0,
    matrix_like: MatrixLike = is_matrix,
    optimizer: Callable[..., optax.GradientTransformation] = optax.adamw,
) -> optax.GradientTransformation:
    """The optimizer of a network of some width, by numbers that were tuned at another width.

    With the width d, the base width d_0 and the numbers eta_0 and lambda_0 of the base,

    | parameters | learning rate | weight decay |
    |---|---|---|
    | matrix-like | `eta_0 d_0 / d` | `lambda_0 sqrt(d / d_0)` |
    | vector-like (biases, gains, embeddings) | `eta_0` | 0 |

    Under AdamW the singular values of a matrix settle where `sqrt(eta / lambda)` says, the largest
    as `sqrt(eta / lambda) d^0.75`; with the rate of the maximal update parametrization this decay
    keeps the gain of a layer the same at every width. It is for training from scratch, as in sweeps
    of ensembles of several widths: an unlearning run is too short to get there, and decay in it
    forgets by itself.

    Args:
      width, base_width: of the network, and of the one whose numbers are given.
      learning_rate: eta_0, may be traced, or a schedule of it.
      weight_decay: lambda_0 of decoupled weight decay, may be traced.
      matrix_like: see `parameter_groups`.
      optimizer: `(learning_rate, weight_decay=) -> optimizer`, default `optax.adamw`; the rules are
        of AdamW.

    Returns:
      An optax transformation.

    Raises:
      ValueError: a width below 1, a negative rate or decay.

    References:
      G. Yang, E. J. Hu, I. Babuschkin, S. Sidor, X. Liu, D. Farhi, N. Ryder, J. Pachocki, W. Chen,
      J. Gao. Tensor Programs V: Tuning Large Neural Networks via Zero-Shot Hyperparameter Transfer.
      NeurIPS 2021.
      Z. Fan, Y. Liu, Q. Zhao, A. Yuan, Q. Gu. Robust Layerwise Scaling Rules by Proper Weight Decay
      Tuning. arXiv 2510.15262, 2025.

    Example:
      >>> optimizer = across_widths(
      ...     64, 16, learning_rate=0.1, weight_decay=0.2,
      ...     optimizer=lambda rate, weight_decay: optax.chain(
      ...         optax.add_decayed_weights(weight_decay), optax.sgd(rate)))
      >>> params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
      >>> zeros = jax.tree.map(jnp.zeros_like, params)
      >>> updates, _ = optimizer.update(zeros, optimizer.init(params), params)
      >>> [round(float(updates[name].ravel()[0]), 4) for name in ("kernel", "bias")]
      [-0.01, -0.0]
    """
    check_counts(1, width=width, base_width=base_width)
    check_range(0, weight_decay=weight_decay)
    wider = width / base_width
    rate: Any
    if callable(learning_rate):
        given = learning_rate

        def rate(step):
            return given(step) / wider
    else:
        check_range(0, learning_rate=learning_rate)
        rate = learning_rate / wider
    return optax.multi_transform(
        {
            "matrix": optimizer(rate, weight_decay=weight_decay * math.sqrt(wider)),
            "vector": optimizer(learning_rate, weight_decay=0.0),
        },
        lambda params: parameter_groups(params, matrix_like),
    )
