"""SynFlow pruning: the weights through which most flows stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from mu_jax import pruning
from mu_jax.data.batches import Batches
from mu_jax.data.checks import check_counts, check_range
from mu_jax.model import Model
from mu_jax.transforms._shared.pruned import prune
from mu_jax.transforms._shared.transform import Unlearn, method

PyTree = Any


@method
def synflow_prune(
    model: Model,
    sparsity: jax.Array | float = 0.5,
    *,
    rounds: int = 100,
    chosen: Callable[[str], bool] | None = None,
) -> Unlearn:
    """Set the weights of least synaptic flow to 0, over all pruned leaves together.

    The flow is `R = sum f(1; |theta|)`, the outputs of the network of absolute values for an input
    of ones, and the score of a weight `|w dR/dw|`. In each of n rounds
    `1 - (1 - sparsity)^(1 / n)` of what remains goes, and scores are computed anew, so that no
    layer is lost as a whole. In a chain every later member keeps the zeros, bit for bit.

    Published for networks that are not trained yet; for trained ones magnitude is the better guide.
    It fails where the flow of a very deep network overflows float32, and forgets as little as any
    pruning alone.

    Args:
      model: the model; its loss is not used.
      sparsity: share of the entries to remove, from 0 to 1; may be traced. 0.95 as published.
      rounds: 100 as published.
      chosen: names of the leaves to prune, as for `mu.magnitude_prune`.

    Returns:
      `unlearn(key, variables, forget, retain) -> (variables, info)`; the shape of the retained
      inputs is read alone; `info.details` is a `PruneInfo`.

    Raises:
      ValueError: a sparsity outside [0, 1], where it can be seen; no leaf to prune.

    Cost: `rounds` forward and backward passes of one example, and as many sorts; memory of two
    trees like the parameters.

    Differences from the reference program (`OPTML-Group/Unlearn-Sparse`):
      1. Of equal scores those that come last are pruned; there any.
      2. In the type of the parameters; there in double precision.
      3. Where a round would take out less than half an entry, it takes out what the rounds before
         are late by; there it takes out nothing, and of 48 weights all stay.

    References:
      H. Tanaka, D. Kunin, D. Yamins, S. Ganguli. Pruning Neural Networks Without Any Data by
      Iteratively Conserving Synaptic Flow. NeurIPS 2020.
      J. Jia, J. Liu, P. Ram, Y. Yao, G. Liu, Y. Liu, P. Sharma, S. Liu. Model Sparsity Can
      Simplify Machine Unlearning. NeurIPS 2023.

    Example:
      >>> import jax.numpy as jnp, mu_jax as mu
      >>> model = mu.from_function(lambda p, state, x: x @ p["a"] @ p["b"], mu.losses.squared_error)
      >>> sets = mu.split(mu.batches(jnp.ones((2, 1)), jnp.ones((2, 1)), batch_size=2), [0])
      >>> start = mu.Variables({"a": jnp.array([[2.0, 9.0]]), "b": jnp.array([[-2.0], [0.1]])})
      >>> after, _ = mu.synflow_prune(model, 0.5, rounds=2)(jax.random.key(0), start, *sets)
      >>> after.params["a"].tolist()  # 9 leads to 0.1
      [[2.0, 0.0]]
    """

    check_range(0, 1, sparsity=sparsity)
    check_counts(1, rounds=rounds)

    def mask(variables: PyTree, retain: Any) -> PyTree:
        first = retain if isinstance(retain, Batches) else next(iter(retain))
        return pruning.synflow(
            model, variables, first.inputs, sparsity, rounds=rounds, chosen=chosen
        )

    return prune(model, mask, chosen, example_passes=rounds)
