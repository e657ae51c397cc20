"""Statistics on a mesh: every device sums its own rows, and the sums are added once at the end."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from mu_jax._tracing import cached
from mu_jax.data.axes import Axis, as_seen_here, axis_names, axis_size, check_axis
from mu_jax.data.batches import Batch
from mu_jax.mesh.shards import bare, manual_axes, on_shards, specs_of
from mu_jax.statistics.accumulator import Accumulator, Statistic

PyTree = Any


class Layout(NamedTuple):
    """How variables and sums are divided, as something that can be hashed."""

    structure: Any
    variables: tuple[PartitionSpec, ...]
    sums: tuple[PartitionSpec, ...]


def over_mesh(
    statistic: Statistic, mesh: Mesh, *, axis: Axis = "data", variables: PyTree | None = None
) -> MeshStatistic:
    """A statistic for batches that are sharded over a mesh, exact also for per-example gradients.

    Each device adds up its own rows; `finalize` adds the devices' sums, by one all-reduce of one
    tree for the whole statistic. Where parameters are divided (`mu.shard_params`) the device
    gathers each before it is used and keeps its part of the sum alone, for which every update
    scatters the sums of that leaf.

    Args:
      statistic: a `Statistic`.
      mesh: of automatic or explicit axes.
      axis: what the rows are divided over. The batch size must be a multiple of its size times
        the statistic's group size.
      variables: the model's arrays, to see how they are divided; default not at all.

    Returns:
      A `MeshStatistic` with `init`, `update`, `total` and `finalize`; the same object for the same
      arguments, so that it compiles once. `mu.collect` does all this by itself.

    Example:
      >>> import jax, jax.numpy as jnp, optax, mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: x @ w, optax.squared_error)
      >>> variables, mesh = mu.Variables(jnp.zeros(2)), mu.data_mesh()
      >>> data = mu.batches(jnp.ones((32, 2)), jnp.ones(32), batch_size=16)
      >>> stat = mu.over_mesh(mu.statistics.importance(model), mesh)
      >>> acc, update = stat.init(variables), jax.jit(stat.update)
      >>> for batch in mu.shard(data, mesh):
      ...     acc = update(acc, variables, batch)
      >>> stat.finalize(acc).tolist()
      [4.0, 4.0]
    """
    check_axis(mesh, axis)
    layout = None
    if variables is not None:
        specs, structure = jax.tree.flatten(specs_of(variables, mesh))
        layout = Layout(structure, tuple(specs), _sum_specs(statistic, variables, mesh))
    return _over_mesh(statistic, mesh, axis, layout)


def _sum_specs(statistic: Statistic, variables: PyTree, mesh: Mesh) -> tuple[PartitionSpec, ...]:
    """Sums shaped like the parameters are divided as they are, others not at all."""
    params = statistic.params(variables)
    sums = jax.eval_shape(statistic.init, bare(variables)).sum
    shapes = [[leaf.shape for leaf in jax.tree.leaves(tree)] for tree in (params, sums)]
    if shapes[0] == shapes[1]:
        return tuple(jax.tree.leaves(specs_of(params, mesh)))
    return tuple(PartitionSpec() for _ in shapes[1])


@cached(maxsize=128)
def _over_mesh(statistic: Statistic, mesh: Mesh, axis: Axis, layout: Layout | None):
    return MeshStatistic(statistic, mesh, axis, layout)


@dataclasses.dataclass(frozen=True)
class MeshStatistic:
    """A `Statistic` whose sums lie spread over the devices of a mesh until the end.

    Until then, leaves of the accumulator have one more leading axis: of the devices that hold
    sums of the same entries. `total` takes it away.
    """

    statistic: Statistic
    mesh: Mesh
    axis: Axis
    layout: Layout | None

    def init(self, variables: PyTree) -> Accumulator:
        """The empty sums, in float32 or wider."""
        empty = self.statistic.init(variables)
        leaves, structure = jax.tree.flatten(bare(empty.sum))
        total, weight = _zeros(self, structure, tuple(leaves), empty.weight.dtype)()
        return dataclasses.replace(empty, sum=total, weight=weight)

    def update(self, acc: Accumulator, variables: PyTree, batch: Batch) -> Accumulator:
        """Add one batch; devices exchange nothing but the leaves that are divided."""
        specs = self.specs(acc.sum)
        frozen = jax.tree.map(lambda _: PartitionSpec(), variables)
        if self.layout is not None:
            frozen = jax.tree.unflatten(self.layout.structure, self.layout.variables)

        def finish(found):
            total, weight = found
            total = jax.tree.map(lambda x, spec: _scatter(x, spec)[None], total, specs)
            return total, weight[None]

        terms = on_shards(
            self.statistic.terms,
            self.mesh,
            self.axis,
            specs=frozen,
            out_specs=self.spread(specs),
            finish=finish,
        )
        added, weight = terms(variables, batch)
        total = jax.tree.map(lambda s, a: s + a.astype(s.dtype), acc.sum, added)
        weight = acc.weight + weight.astype(acc.weight.dtype)
        return dataclasses.replace(acc, sum=total, weight=weight)

    def total(self, acc: Accumulator) -> Accumulator:
        """The sums over all devices: one all-reduce of one tree."""
        total, weight = _total(self, jax.tree.structure(acc.sum))(acc.sum, acc.weight)
        return dataclasses.replace(acc, sum=total, weight=weight)

    def finalize(self, acc: Accumulator) -> PyTree:
        """The mean over all examples, a tree shaped like the parameters."""
        return self.statistic.finalize(self.total(acc))

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes by which rows or arrays are divided."""
        return manual_axes(self.mesh, self.axis, self.layout and self.layout.variables)

    def specs(self, sums: PyTree) -> PyTree:
        """How the finished sums are divided."""
        if self.layout is None:
            return jax.tree.map(lambda _: PartitionSpec(), sums)
        return jax.tree.unflatten(jax.tree.structure(sums), self.layout.sums)

    def spread(self, specs: PyTree) -> tuple[PyTree, PartitionSpec]:
        """How unfinished sums and the weight are: one part for each device of the other axes."""

        def one(spec):
            used = [name for entry in spec if entry is not None for name in axis_names(entry)]
            others = tuple(name for name in self.axes if name not in used)
            return PartitionSpec(others or None, *spec)

        return jax.tree.map(one, specs), PartitionSpec(self.axes)


@cached(maxsize=128)
def _zeros(statistic: MeshStatistic, structure: Any, shapes: tuple, dtype: Any) -> Callable:
    """The program that makes the empty sums, on each device its part."""
    sums = jax.tree.unflatten(structure, shapes)
    specs = statistic.specs(sums)

    def part(leaf, spec):
        shape = list(leaf.shape)
        for dimension, entry in enumerate(spec):
            shape[dimension] //= axis_size(statistic.mesh, entry or ())
        return jnp.zeros((1, *shape), leaf.dtype)

    def zeros():
        return jax.tree.map(part, sums, specs), jnp.zeros(1, dtype)

    return _program(statistic, zeros, (), statistic.spread(specs))


@cached(maxsize=128)
def _total(statistic: MeshStatistic, structure: Any) -> Callable:
    """The program that adds the devices' sums."""
    specs = statistic.specs(jax.tree.unflatten(structure, [0] * structure.num_leaves))
    spread = statistic.spread(specs)

    def add(total, weight):
        def one(x, own):
            return jax.lax.psum(x, axis_names(own[0] or ()))[0]

        return jax.tree.map(one, total, spread[0]), jax.lax.psum(weight, statistic.axes)[0]

    return _program(statistic, add, spread, (specs, PartitionSpec()))


def _program(statistic: MeshStatistic, function: Callable, in_specs: Any, out_specs: Any):
    return jax.jit(
        lambda *args: jax.shard_map(
            function,
            mesh=as_seen_here(statistic.mesh),
            in_specs=in_specs,
            out_specs=out_specs,
            axis_names=set(statistic.axes),
        )(*args)
    )


def _scatter(x: jax.Array, spec: PartitionSpec) -> jax.Array:
    """The sum over the devices among which a leaf is divided, to each its part."""
    for dimension, names in enumerate(spec):
        if names is not None:
            x = jax.lax.psum_scatter(x, names, scatter_dimension=dimension, tiled=True)
    return x
