"""Rules by which a fit of phases ends before its last cycle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mu_jax import _at_once as at_once

PyTree = Any


class Until(NamedTuple):
    """When the cycles of `mu.fit_phases` end.

    Attributes:
      begin: what is known before the first cycle, a tree of arrays.
      after: `(known, variables) -> (known, stop)`, a pure function that is called after cycles;
        `stop` is bool[]. Where values can be seen, outside `jit`, it may branch on them.
      every: cycles from one call to the next.
    """

    begin: PyTree
    after: Callable[[PyTree, PyTree], tuple[PyTree, jax.Array]]
    every: int = 1


class Progress(NamedTuple):
    """Where a fit stands with its rule: what is known, and whether it has ended, bool[]."""

    known: PyTree
    ended: jax.Array


def before(until: Until | None) -> Progress | None:
    """The progress before the first cycle."""
    if until is None:
        return None
    return Progress(jax.tree.map(at_once.as_array, until.begin), at_once.as_array(False))


def after_cycle(
    until: Until | None, progress: Progress | None, variables: PyTree, cycle: int | jax.Array
) -> Progress | None:
    """The progress after a cycle, of that number; what was known at the end stays known."""
    if until is None or progress is None:
        return progress

    def look() -> Progress:
        known, stop = until.after(progress.known, variables)
        return Progress(known, jnp.asarray(stop, bool))

    due = (cycle + 1) % until.every == 0
    if isinstance(due, bool):  # in turns: a fit that ended has no further cycle
        return look() if due else progress
    return jax.lax.cond(due & ~progress.ended, look, lambda: progress)
