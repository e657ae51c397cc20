"""Magnitude pruning in one shot, a preparation that other methods profit from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from mu_jax import pruning
from mu_jax.data.checks import check_range
from mu_jax.model import Model
from mu_jax.transforms._shared.pruned import prune
from mu_jax.transforms._shared.transform import Unlearn, method

PyTree = Any


@method
def magnitude_prune(
    model: Model,
    sparsity: jax.Array | float = 0.5,
    *,
    chosen: Callable[[str], bool] | None = None,
) -> Unlearn:
    """Set the weights of least magnitude to 0, over all pruned leaves together.

    `round(sparsity n)` of the n entries go. In a chain every later member keeps the zeros, bit for
    bit: `mu.chain(mu.magnitude_prune(model, 0.95), mu.finetune(model, ...))` is the published
    "prune first, then unlearn" for a model that is not sparse yet. (`mu.pruning.iterative` retrains
    between rounds, which keeps more of the accuracy; and `mu.keep_zeros` unlearns in a model that
    was pruned before.)

    It fails where the share is too large for a network that is not trained again: check the retain
    set. Pruning alone forgets little.

    Args:
      model: the model.
      sparsity: share of the entries to remove, from 0 to 1; may be traced. 0.95 as published.
      chosen: names of the leaves to prune. Default: kernels of convolutions over images, which are
        all leaves of four or more axes, as published; without any, all leaves of two or more axes.
        (A vision transformer has one such kernel, in its patches: choose its matrices by name.)

    Returns:
      `unlearn(key, variables, forget, retain) -> (variables, info)`; no data are read;
      `info.details` is a `PruneInfo`.

    Raises:
      ValueError: a sparsity outside [0, 1], where it can be seen; no leaf to prune.

    Cost: one sort of the pruned leaves; memory of their magnitudes and of the sorted ones.

    Differences from the reference program (`OPTML-Group/Unlearn-Sparse`):
      1. Of equal magnitudes those that come last are pruned; there any.
      2. Zeros are kept by every later member of a chain in its steps and at its end; there a hidden
         weight below the mask goes on decaying, which its network does not see.

    References:
      J. Jia, J. Liu, P. Ram, Y. Yao, G. Liu, Y. Liu, P. Sharma, S. Liu. Model Sparsity Can
      Simplify Machine Unlearning. NeurIPS 2023.

    Example:
      >>> import jax.numpy as jnp, mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: x @ w, mu.losses.squared_error)
      >>> sets = mu.split(mu.batches(jnp.eye(2), jnp.ones((2, 2)), batch_size=2), [0])
      >>> start = mu.Variables(jnp.array([[3.0, -1.0], [0.5, 2.0]]))
      >>> after, info = mu.magnitude_prune(model, 0.5)(jax.random.key(0), start, *sets)
      >>> after.params.tolist(), int(info.details.remaining)
      ([[3.0, 0.0], [0.0, 2.0]], 2)
    """

    check_range(0, 1, sparsity=sparsity)

    def mask(variables: PyTree, retain: Any) -> PyTree:
        return pruning.magnitude(model.params(variables), sparsity, chosen=chosen)

    return prune(model, mask, chosen, example_passes=0)
