"""What transforms that prune share: their edit, their report, and the zeros that a chain keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mu_jax import pruning
from mu_jax.mesh.shards import reduction
from mu_jax.model import Model
from mu_jax.transforms._shared.transform import Unlearn, report

PyTree = Any


class PruneInfo(NamedTuple):
    """What a pruning did.

    Attributes:
      remaining: entries of the pruned leaves that are not 0, i32[].
      by_leaf: the same for each pruned leaf, by name.
    """

    remaining: jax.Array
    by_leaf: dict[str, jax.Array]


def prune(
    model: Model,
    mask: Callable[[PyTree, Any], PyTree],
    chosen: pruning.Chosen | None,
    *,
    example_passes: float,
) -> Unlearn:
    """A method that sets to 0 where `mask(variables, retain)` is False.

    Its attribute `kept` is the rule by which a chain keeps the zeros: see `mu.pruning.alive`.
    """

    def unlearn(key: jax.Array, variables: PyTree, forget: Any, retain: Any):
        del key
        params = pruning.apply(model.params(variables), mask(variables, retain))
        return report(
            model,
            variables,
            model.with_params(variables, params),
            (forget, retain),
            steps=0,
            example_passes=example_passes,
            details=_count(pruning.alive(params, chosen)),
        )

    unlearn.kept = lambda params: pruning.alive(params, chosen)  # type: ignore[attr-defined]
    return unlearn


@reduction
def _count(xp: Any, alive: dict[str, jax.Array]) -> PruneInfo:
    by_leaf = {name: mask.sum(dtype=jnp.int32) for name, mask in alive.items()}
    return PruneInfo(xp.asarray(sum(by_leaf.values()), jnp.int32), by_leaf)
