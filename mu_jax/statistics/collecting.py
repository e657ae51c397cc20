"""The one way to a statistic: over arrays or a stream, on one device or a mesh."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mu_jax._tracing import cached
from mu_jax.data.axes import Axis, axis_size
from mu_jax.data.batches import Batch, Batches, is_concrete, round_up
from mu_jax.data.blocks import alike
from mu_jax.loops.recording import once
from mu_jax.loops.scan import fold
from mu_jax.mesh.shards import enter, mesh_of, place, reduction
from mu_jax.model import path_name
from mu_jax.statistics.accumulator import Accumulator, Statistic, check_fingerprint
from mu_jax.statistics.over_mesh import MeshStatistic, over_mesh

PyTree = Any


def collect(
    statistic: Statistic,
    variables: PyTree,
    batches: Batches | Iterable[Batch],
    *,
    resume: Accumulator | None = None,
) -> Accumulator:
    """Compute a statistic over batches, in the given order.

    Args:
      statistic: for example `mu.statistics.importance(model)`.
      variables: the model's arrays.
      batches: `Batches` (one compiled loop), or an iterable of `Batch` (a host loop around the
        same compiled step); sharded over a mesh or not. The result does not depend on the batch
        size, the padding or the number of devices, up to rounding.
      resume: a result to add to; it must be of the same statistic and variables.

    Returns:
      An `Accumulator`; `.value` is the mean, a tree shaped like the parameters, `.weight` what it
      was divided by.

    Raises:
      ValueError: nothing to sum, a result that is not finite, another definition or other
        variables to resume from.

    Cost: one pass over the batches; memory of one batch and of the statistic.

    Example:
      >>> import jax.numpy as jnp, optax, mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: x @ w, optax.squared_error)
      >>> data = mu.batches(jnp.eye(2), jnp.array([1.0, 3.0]), batch_size=1)
      >>> mu.collect(mu.statistics.mean_gradient(model), mu.Variables(jnp.zeros(2)), data).value
      Array([-1., -3.], dtype=float32)
    """
    batches, mesh, axis = _fit_to_devices(batches, statistic.group_size)
    if mesh is not None:
        variables, resume = on_mesh(mesh, (variables, resume))
    start = statistic.init(variables)
    if resume is not None:
        start.merge(resume)
    if mesh is None:
        acc = fold(_step(statistic), start if resume is None else resume, batches, variables)
    else:
        spread = over_mesh(statistic, mesh, axis=axis, variables=variables)
        sums = fold(_step(spread), spread.init(variables), batches, variables)
        acc = once(spread.total, sums)
        acc = acc if resume is None else resume.merge(acc)
    check_fingerprint(acc, start.fingerprint)  # an observer may have loaded another sum
    _check(acc)
    return acc


@cached(maxsize=256)
def _step(statistic: Statistic | MeshStatistic) -> Callable:
    """The same function object for the same statistic, so that it compiles once."""

    def step(acc, batch, variables):
        return statistic.update(acc, variables, batch)

    return step


def on_mesh(mesh: Mesh, tree: PyTree) -> PyTree:
    """Let arrays that lie elsewhere lie on every device of the mesh."""
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))
    return enter(tree, mesh) if traced else place(tree, mesh)


def _fit_to_devices(batches: Any, group_size: int) -> tuple[Any, Mesh | None, Axis]:
    """Let batches hold whole groups on every device."""
    mesh, axis = getattr(batches, "mesh", None), getattr(batches, "axis", "data")
    if mesh is None and isinstance(batches, list | tuple) and batches:
        mesh, axis = mesh_of(batches[0]) or (None, axis)
    if hasattr(batches, "num_examples"):
        rows = min(batches.batch_size, batches.num_examples)
        size = round_up(rows, group_size * axis_size(mesh, axis))
        batches = batches.replace(multiple=group_size)
        batches = alike(batches) if isinstance(batches, Batches) else batches
        batches = batches.replace(batch_size=size)
    return batches, mesh, axis


def _check(acc: Accumulator) -> None:
    if not all(is_concrete(leaf) for leaf in jax.tree.leaves(acc)):
        return
    if not np.asarray(acc.weight) > 0:
        raise ValueError(
            "expected at least one example of positive weight, found none: give a set that is "
            "not empty"
        )
    finite = _finite(acc.sum)
    if not all(map(bool, jax.tree.leaves(finite))):
        raise ValueError(
            f"expected a finite {acc.definition!r}, found NaN or infinity in "
            f"{_bad_leaves(finite)}: check inputs, targets and parameters"
        )


@reduction
def _finite(xp: Any, tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: xp.isfinite(x).all(), tree)


def _bad_leaves(finite: PyTree) -> str:
    paths = jax.tree_util.tree_leaves_with_path(finite)
    return ", ".join(path_name(path) or "the only leaf" for path, good in paths if not good)
