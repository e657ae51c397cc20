"""Transforms that may move in a subspace of the parameters only."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from mu_jax import _words as words
from mu_jax.adapters.lifting import adapted, attach, merge
from mu_jax.combinators import Chain
from mu_jax.model import Model
from mu_jax.transforms._shared.transform import Transform, Unlearn, report

PyTree = Any


def low_rank(
    transform: Transform,
    *,
    rank: int = 8,
    alpha: jax.Array | float = 16.0,
    chosen: Callable[[str], bool] | None = None,
) -> Transform:
    """The transform inside low-rank adapters, which are merged into the weights at its end.

    New adapters are attached to the chosen kernels, the transform changes the adapters alone, and
    `W + alpha / r a^T b` takes the place of each kernel. The optimizer state is that of the
    adapters, the model before unlearning is the base, and nothing is left that could be taken off.
    Importances, thresholds and norms of the transform are those of the adapters.

    Args:
      transform: any single transform that changes parameters by a gradient. (At the start `b` is
        zero, so that one step of the transform moves `b` alone.)
      rank: r. alpha: of the scale, may be traced.
      chosen: names of the kernels, see `mu.adapters.new_adapters`; default: every matrix.

    Returns:
      A `Transform` for the variables of the model without adapters; `info.edit` and
      `info.details` are about kernels and about the fit.

    Raises:
      TypeError: a chain: give its members one by one.

    Cost: that of the transform, the gradients of kernels with it; optimizer state, masks and
    statistics of `r (in + out)` numbers in the place of `in out`.

    References:
      E. J. Hu, Y. Shen, P. Wallis, Z. Allen-Zhu, Y. Li, S. Wang, L. Wang, W. Chen. LoRA: Low-Rank
      Adaptation of Large Language Models. ICLR 2022.

    Example:
      >>> import jax.numpy as jnp, numpy as np, optax, mu_jax as mu
      >>> model = mu.from_function(lambda p, state, x: x @ p["w"], mu.losses.cross_entropy)
      >>> data = mu.batches(jnp.eye(4), jnp.arange(4), batch_size=4)
      >>> unlearn = mu.low_rank(mu.gradient_ascent(model, optax.sgd(0.5), epochs=3), rank=1)
      >>> start = mu.Variables({"w": 3.0 * jnp.eye(4)})
      >>> after, _ = unlearn(jax.random.key(0), start, *mu.split(data, [2]))
      >>> int(np.linalg.matrix_rank(after.params["w"] - start.params["w"], tol=1e-5))
      1
    """
    if isinstance(transform, Chain):
        raise TypeError(
            "expected a single transform, found a chain: give its members adapters one by one"
        )

    def method(model: Model) -> Unlearn:
        inner = transform.method(adapted(model))

        def unlearn(key: jax.Array, variables: PyTree, forget: Any, retain: Any):
            start = attach(
                jax.random.fold_in(key, 0), model, variables, rank=rank, alpha=alpha, chosen=chosen
            )
            found, info = inner(jax.random.fold_in(key, 1), start, forget, retain)
            return report(
                model,
                variables,
                merge(model, found),
                (forget, retain),
                steps=info.steps,
                example_passes=info.example_passes,
                details=info.details,
            )

        return unlearn

    inside = words.call("low_rank", (transform,), {"rank": rank, "alpha": alpha})
    method.words = inside  # type: ignore[attr-defined]
    method.aim = transform.aim  # type: ignore[attr-defined]
    return dataclasses.replace(transform, method=method)
