"""A proximal pull: what an optimizer moved least goes back to where it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mu_jax.data.checks import check_counts, check_range

PyTree = Any
Share = jax.Array | float | Callable[[jax.Array], jax.Array]


class PullState(NamedTuple):
    """The state of `pull_back`.

    Attributes:
      steps: that were taken, i32[]. anchor: the parameters to which they are pulled back.
    """

    steps: jax.Array
    anchor: PyTree


def pull_back(share: Share, every: int | None = None) -> optax.GradientTransformation:
    """An optimizer's last link, which holds a share of the parameters where they were.

    With the parameters theta after a step and the anchor theta_0, `d = theta - theta_0`, and t the
    `floor(share P)`-th smallest of all P numbers `|d_j|`, the step ends at

    `theta_0 + sign(d) max(|d| - t, 0)`,

    the proximal operator of `t ||theta - theta_0||_1`: a share of the parameters is back at the
    anchor, and the others have come nearer by t. Chain it last: `optax.chain(optax.sgd(0.01),
    pull_back(0.5))`. Momentum before it does not see the pull.

    SalUn-soft is `mu.random_labels` with `protocol="redrawn_union"` and a share that falls linearly
    to 0, from 0.5 on as published, so that more and more parameters may move.

    Args:
      share: from 0 to 1, of all parameters that the optimizer trains; may be traced, or a schedule
        `steps -> share` of the number of steps taken before.
      every: number of steps after which the anchor is moved to the parameters; default: it stays
        where the fit began.

    Returns:
      An optax transformation.

    Raises:
      ValueError: a share outside [0, 1], where it can be seen, or an `every` below 1.

    Cost: one sort of as many numbers as there are parameters in each step, and one copy of them.

    Differences from the reference program (`OPTML-Group/Unlearn-Saliency`, `RL_proximal`):
      1. The anchor is the start of the fit. The program anchors anew in every epoch: `every` =
         steps of an epoch.
      2. The schedule is the caller's. The program evaluates `0.5 (1 - (s + 1) / S)` of S steps at
         the first step s of each epoch, and keeps it in the epoch.
      3. A share of 0 pulls nothing, there it fails.

    References:
      C. Fan, J. Liu, Y. Zhang, E. Wong, D. Wei, S. Liu. SalUn: Empowering Machine Unlearning via
      Gradient-based Weight Saliency in Both Image Classification and Generation. ICLR 2024.

    Example:
      >>> optimizer = optax.chain(optax.sgd(1.0), pull_back(0.5))
      >>> params = jnp.zeros(4)
      >>> gradient = jnp.array([1.0, -2.0, 3.0, -5.0])
      >>> updates, _ = optimizer.update(gradient, optimizer.init(params), params)
      >>> optax.apply_updates(params, updates)
      Array([ 0.,  0., -1.,  3.], dtype=float32)
    """
    if not callable(share):
        check_range(0, 1, share=share)
    check_counts(1, every=every)

    def init(params: PyTree) -> PullState:
        return PullState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.array, params))

    def update(updates: PyTree, state: PullState, params: PyTree | None = None):
        if params is None:
            raise ValueError("expected the parameters, found none: call update(..., params)")
        steps, anchor = state
        if every is not None:
            anew = steps % every == 0
            anchor = jax.tree.map(lambda p, a: jnp.where(anew, p, a), params, anchor)
        moved = jax.tree.map(lambda p, u, a: p + u - a, params, updates, anchor)
        least = _smallest(moved, share(steps) if callable(share) else share)

        def pulled(change, param, start):
            short = jnp.sign(change) * jnp.maximum(jnp.abs(change) - least, 0)
            return (start + short - param).astype(param.dtype)

        return jax.tree.map(pulled, moved, params, anchor), PullState(steps + 1, anchor)

    return optax.GradientTransformation(init, update)  # type: ignore[arg-type]


def _smallest(tree: PyTree, share: jax.Array | float) -> jax.Array:
    """The `floor(share P)`-th smallest absolute value of all P entries; 0 for none."""
    lengths = jnp.sort(jnp.abs(jnp.concatenate([x.ravel() for x in jax.tree.leaves(tree)])))
    number = jnp.floor(jnp.asarray(share, float) * lengths.size).astype(jnp.int32)
    return jnp.where(number > 0, lengths[jnp.maximum(number, 1) - 1], 0)
