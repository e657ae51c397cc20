"""One row of numbers for every example: outputs, scores, features; streamed over batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from mu_jax import _at_once as at_once
from mu_jax import _target as target
from mu_jax._tracing import cached
from mu_jax.data.axes import Axis, axis_size
from mu_jax.data.batches import Batch, Batches
from mu_jax.data.blocks import alike, at_least
from mu_jax.data.rows import shapes_of_rows
from mu_jax.loops.scan import fold
from mu_jax.mesh.shards import bare, counts, manual_axes, on_shards, specs_of, vary
from mu_jax.model import Model

PyTree = Any
RowFunction = Callable[..., PyTree]


def map_rows(function: RowFunction, data: Any, *frozen: PyTree) -> PyTree:
    """Stack `function(batch, *frozen)`, a tree of `[B, ...]`, over all batches: `[n, ...]`.

    Rows come in the order of the data, without padding. Per-example gradients are safe in it: on a
    mesh it runs shard by shard.

    Args:
      function: pure; pass the same object again to reuse its compilation.
      data: `Batches` or a `Stream`.
      *frozen: pytrees of arrays, passed as arguments.
    """
    size = getattr(data, "num_examples", None)
    if size is None:
        raise ValueError(
            f"expected Batches or a Stream, found {type(data).__name__}: make one with mu.batches "
            "or mu.stream, so that the number of examples is known"
        )
    known, room = at_once.is_known((data if isinstance(data, Batches) else None, frozen)), size
    if known and isinstance(data, Batches) and not getattr(data.mesh, "is_multi_process", False):
        data, room = alike(data), at_least(_FEW_ROWS, size)
    first = jax.eval_shape(data.at, 0) if isinstance(data, Batches) else next(iter(data))
    shapes = jax.eval_shape(function, bare(first), *bare(frozen))
    tables = shapes_of_rows(shapes, room)
    table = at_once.zeros(tables) if known else jax.tree.map(jnp.zeros_like, tables)
    specs: Any = (None, ())
    if data.mesh is not None:
        leaves, structure = jax.tree.flatten(specs_of(frozen, data.mesh))
        specs = (structure, tuple(leaves))
    step = _row_step(function, min(data.batch_size, room), data.mesh, data.axis, *specs)
    table = fold(step, (table, at_once.as_array(0, np.int32)), data, *frozen)[0]
    return table if room == size else at_once.indexed(table, slice(size))


_FEW_ROWS = 256


def outputs(model: Model, variables: PyTree, data: Any) -> PyTree:
    """Outputs in inference mode for every example, `[n, ...]`, in the order of the examples.

    Args:
      model, variables: the model.
      data: `Batches` or a `Stream`; rows of weight 0 get their outputs too.

    Cost: one forward pass; memory of the result and one batch of activations.

    Example:
      >>> import jax.numpy as jnp, optax, mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: x @ w, optax.squared_error)
      >>> data = mu.batches(jnp.eye(3), jnp.zeros(3), batch_size=2)
      >>> mu.outputs(model, mu.Variables(jnp.arange(3.0)), data)
      Array([0., 1., 2.], dtype=float32)
    """
    return map_rows(_output_rows(model, at_once.is_known(variables)), unweighted(data), variables)


def unweighted(data: Any) -> Any:
    """The same examples with weight 1: what a row of weight 0 holds does not reach `map_rows`."""
    if isinstance(data, Batches):
        return data.replace(weight=_ones(data.weight))
    return data


@at_once.elementwise
def _ones(xp: Any, weight: jax.Array) -> jax.Array:
    return xp.ones_like(weight)


def all_targets(examples: Any) -> PyTree:
    """The targets of every example, `[n, ...]`; of a `Stream`, in one pass over it."""
    if isinstance(examples, Batches):
        return examples.targets
    return map_rows(_targets_of, examples)


def _targets_of(batch: Batch) -> PyTree:
    return batch.targets


@cached(maxsize=64)
def _output_rows(model: Model, alone: bool) -> RowFunction:
    """alone: whether this is one model, and no program goes around it."""

    def rows(batch: Batch, variables: PyTree) -> PyTree:
        with target.forward_only(alone):
            return model.apply(variables, batch.inputs)

    return rows


@cached(maxsize=128)
def _row_step(
    function: RowFunction, rows: int, mesh: Mesh | None, axis: Axis, structure: Any, specs: tuple
) -> Callable:
    """Write the rows of one batch, of which the first `rows` are no padding, behind the others."""

    def local(frozen: tuple, batch: Batch) -> PyTree:
        return function(batch, *frozen)

    compute = local
    if mesh is not None:
        compute = _gathered(local, mesh, axis, jax.tree.unflatten(structure, specs))

    def step(carry, batch, *frozen):
        table, count = carry
        found = jax.tree.map(lambda x: x[:rows], compute(frozen, batch))
        here = min(rows, batch.weight.shape[0])  # a set may be smaller than its batch
        position = count + jnp.arange(here)
        table = jax.tree.map(lambda t, x: t.at[position].set(x, mode="drop"), table, found)
        return table, count + here

    return step


def _gathered(function: Callable, mesh: Mesh, axis: Axis, specs: PyTree) -> Callable:
    """Run on every shard and gather the rows, as a sum in which each shard fills its own part."""

    names = manual_axes(mesh, axis, specs)

    def place(x):
        whole = jnp.zeros((x.shape[0] * axis_size(mesh, axis), *x.shape[1:]), x.dtype)
        start = jax.lax.axis_index(axis) * x.shape[0]
        whole = jax.lax.dynamic_update_slice_in_dim(vary(whole, names), x, start, 0)
        filled = jax.lax.psum(jnp.where(counts(names, axis), whole, jnp.zeros_like(whole)), names)
        return filled.astype(x.dtype)  # bools add up to integers

    def finish(found):
        return jax.tree.map(place, found)

    everywhere = PartitionSpec()
    return on_shards(function, mesh, axis, specs=specs, out_specs=everywhere, finish=finish)
