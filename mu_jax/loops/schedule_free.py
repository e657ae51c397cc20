"""Schedule-free optimizers: the parameters that a fit returns are those to evaluate."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax.contrib import ScheduleFreeState

from mu_jax import _at_once as at_once

PyTree = Any


class ScheduleFreeKept(NamedTuple):
    """A schedule-free state behind a fit.

    Attributes:
      state: of `optax.contrib.schedule_free`.
      current: the parameters y at which the next gradient is taken, from which the fit goes on.
    """

    state: ScheduleFreeState
    current: PyTree


def _is_free(x: Any) -> bool:
    return isinstance(x, ScheduleFreeState)


def _is_kept(x: Any) -> bool:
    return isinstance(x, ScheduleFreeKept)


def holds_schedule_free(opt_state: optax.OptState) -> bool:
    """Whether a state is that of a schedule-free optimizer, wherever that stands."""
    return any(map(_is_free, jax.tree.leaves(opt_state, is_leaf=_is_free)))


def evaluated(
    params: PyTree, opt_state: optax.OptState, mask: PyTree | None = None
) -> tuple[PyTree, optax.OptState]:
    """The parameters `x = (y - (1 - b1) z) / b1` to evaluate, and a state that keeps y.

    Args:
      params: y, where the last gradient was to be taken next. opt_state: of the optimizer.
      mask: which entries may change, bools; the others keep every bit.
    """
    states = [s for s in jax.tree.leaves(opt_state, is_leaf=_is_free) if _is_free(s)]
    result = params
    for state in states:
        result = _at_x(result, state.z, state.b1, mask)
    kept = jax.tree.map(
        lambda x: ScheduleFreeKept(x, params) if _is_free(x) else x, opt_state, is_leaf=_is_free
    )
    return result, kept


def going_on(opt_state: optax.OptState) -> tuple[PyTree | None, optax.OptState]:
    """The inverse of `evaluated`: the parameters y, None without them, and the state of optax."""
    kept = [s for s in jax.tree.leaves(opt_state, is_leaf=_is_kept) if _is_kept(s)]
    if not kept:
        return None, opt_state
    state = jax.tree.map(lambda x: x.state if _is_kept(x) else x, opt_state, is_leaf=_is_kept)
    return kept[0].current, state


@at_once.elementwise
def _at_x(xp: Any, params: PyTree, z: PyTree, b1: Any, mask: PyTree | None) -> PyTree:
    def leaf(z, y, may=None):
        if isinstance(z, optax.MaskedNode):
            return y
        kind = jnp.promote_types(y.dtype, jnp.float32)
        share = b1.astype(kind)
        x = ((y.astype(kind) - (1 - share) * z.astype(kind)) / share).astype(y.dtype)
        # What has not moved keeps every bit, and so does what may not move.
        x = xp.where(z.astype(y.dtype) == y, y, x)
        return x if may is None else xp.where(may, x, y)

    trees = (params,) if mask is None else (params, mask)
    return jax.tree.map(leaf, z, *trees, is_leaf=lambda x: isinstance(x, optax.MaskedNode))
