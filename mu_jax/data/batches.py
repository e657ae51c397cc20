"""Examples and their batches: ids, weights and padding."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mu_jax import _at_once as at_once
from mu_jax._words import type_of
from mu_jax.data.axes import Axis, axis_size, constrain, is_explicit
from mu_jax.data.id_text import refuse_set
from mu_jax.data.rows import random_order, rows_at

PyTree = Any


class Batch(NamedTuple):
    """B examples: `inputs` and `targets` are pytrees with leading axis B.

    `weight` f32[B] is the weight of each example in every sum, 0 for padding; `index` i32[B] is
    the stable id of each example, any i32; that of a row
    of weight 0 may be padding's and says nothing.
    """

    inputs: PyTree
    targets: PyTree
    weight: jax.Array
    index: jax.Array  # type: ignore[assignment]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class Batches:
    """Array-backed examples and how to walk through them; a pytree, so it goes through `jit`.

    Attributes:
      inputs, targets: pytrees of arrays with leading axis n.
      weight: f32[n]. index: i32[n], the stable ids.
      batch_size: examples per batch; the last batch may hold fewer.
      mesh: mesh over whose `axis` every batch is sharded, or None. The arrays themselves are
        replicated: data too large for that is streamed (`mu.stream`).
      axis: name of the data axis of `mesh`, or of several.
      multiple: every batch is padded to a multiple of it on every device (whole groups).
    """

    inputs: PyTree
    targets: PyTree
    weight: jax.Array
    index: jax.Array
    batch_size: int = dataclasses.field(metadata={"static": True})
    mesh: Mesh | None = dataclasses.field(default=None, metadata={"static": True})
    axis: Axis = dataclasses.field(default="data", metadata={"static": True})
    multiple: int = dataclasses.field(default=1, metadata={"static": True})

    def __repr__(self) -> str:
        size, where = self.batch_size, "" if self.mesh is None else f", over {self.axis!r}"
        held = f"inputs={describe(self.inputs)}, targets={describe(self.targets)}"
        return f"Batches({self.weight.shape[0]} examples, batch_size={size}, {held}{where})"

    @property
    def num_examples(self) -> int:
        """Number of rows, whatever their weight."""
        return self.weight.shape[0]

    @property
    def num_batches(self) -> int:
        """Number of batches in one epoch."""
        return -(-self.num_examples // self.batch_size)

    def replace(self, **changes: Any) -> Batches:
        """A copy with other fields."""
        return dataclasses.replace(self, **changes)

    def take(self, rows: Any) -> Batches:
        """The examples at positions `rows`, in that order."""
        examples = (self.inputs, self.targets, self.weight, self.index)
        inputs, targets, weight, index = _taken(examples, rows)
        return self.replace(inputs=inputs, targets=targets, weight=weight, index=index)

    def shuffled(self, key: jax.Array) -> Batches:
        """The same examples in a random order."""
        return self.take(self.order(key))

    def order(self, key: jax.Array) -> jax.Array:
        """A random order of the rows, i32[n]."""
        return random_order(key, self.num_examples)

    def at(self, step: jax.Array | int, order: jax.Array | None = None) -> Batch:
        """Batch number `step` of an epoch, filled up with real rows of weight 0.

        The rows that fill it are those of the epoch's beginning: in training mode they enter the
        statistics of a batch normalization, so they had better be ordinary examples.

        Args:
          step: batch number in the epoch, may be traced.
          order: i32[n], a permutation of the rows; default the given order.

        Returns:
          A `Batch` of `batch_size` rows (fewer if there are fewer examples), rounded up to a
          multiple of the devices on the mesh's data axis and sharded over it.

        Cost: one read of the rows. Outside `jit` nothing is compiled where the examples lie on one
        CPU, and one program for all steps elsewhere.
        """
        given = (self, step, order)
        if not at_once.is_known(given):
            return self._read(jnp, step, order, _rows)
        if self.mesh is None and at_once.on_host(given) and not at_once.is_divided(given):
            host, step, order = at_once.to_host(given)
            place = self.weight.sharding if getattr(self.weight, "committed", False) else None
            return jax.device_put(host._read(np, step, order, lambda x, row: x[row]), place)
        return _read(self, step, order)

    def _read(self, xp: Any, step: Any, order: Any, take: Callable[[Any, Any], Any]) -> Batch:
        real = min(self.batch_size, self.weight.shape[0])
        row, weight, index, some = rows_at(
            xp,
            step,
            self.weight,
            self.index,
            order,
            batch_size=self.batch_size,
            slots=round_up(real, self.multiple * axis_size(self.mesh, self.axis)),
            take=take,
            count=self.num_examples,
        )
        parts = (row, weight, index)
        if self.mesh is not None:  # divided first: each device then reads its own rows only
            parts = constrain(parts, self.mesh, self.axis)
        row, weight, index = parts

        def read(x):
            return xp.where(some, take(x, row), xp.zeros((), x.dtype))

        inputs, targets = jax.tree.map(read, (self.inputs, self.targets))
        return Batch(inputs, targets, weight, index)

    def __iter__(self) -> Iterator[Batch]:
        return (self.at(step) for step in range(self.num_batches))


@jax.jit
def _read(data: Batches, step: Any, order: Any) -> Batch:
    return data._read(jnp, step, order, _rows)


def batches(
    inputs: PyTree,
    targets: PyTree,
    *,
    batch_size: int,
    weight: Any | None = None,
    index: Any | None = None,
) -> Batches:
    """Put arrays into batches; keeps the given order until shuffled.

    Args:
      inputs: pytree of arrays with leading axis n.
      targets: pytree of arrays with leading axis n (integer labels, float targets, or `()`).
      batch_size: examples per batch. Results do not depend on it, memory and speed do.
      weight: f32[n], weight of each example in every sum; default 1.
      index: int[n], stable ids by which forget requests name examples; default 0..n-1.

    Raises:
      ValueError: no examples, unequal leading axes, a weight that is negative or not finite, ids
        that are not integers.

    Example:
      >>> import numpy as np, mu_jax as mu
      >>> data = mu.batches(np.ones((5, 2)), np.arange(5), batch_size=2)
      >>> data.num_batches, [int(b.weight.sum()) for b in data]
      (3, [2, 2, 1])
    """
    _check_arrays((inputs, targets))
    n = _leading_axis((inputs, targets))
    if batch_size < 1:
        raise ValueError(f"expected batch_size >= 1, found {batch_size}: give a positive size")
    weight = at_once.as_array(np.ones(n) if weight is None else weight, jnp.float32)
    index = as_ids(np.arange(n) if index is None else index)
    for name, array in (("weight", weight), ("index", index)):
        if array.shape != (n,):
            raise ValueError(
                f"expected {name} of shape ({n},), one per example, found {array.shape}: "
                f"give one {name} for each row of the inputs"
            )
    check_weight(weight)
    inputs, targets = jax.tree.map(at_once.as_array, (inputs, targets))
    return Batches(inputs, targets, weight, index, batch_size)


def _rows(array: jax.Array, row: jax.Array) -> jax.Array:
    """Rows that are known to be there: no negative or too large number has to be mended."""
    array, where = jnp.asarray(array), jax.typeof(row).sharding
    explicit = not where.mesh.empty and is_explicit(where.mesh)
    spec = PartitionSpec(*where.spec, *[None] * (array.ndim - 1))
    out = NamedSharding(where.mesh, spec) if explicit else None
    return array.at[row].get(mode="promise_in_bounds", out_sharding=out)


def concatenate(first: Batches, second: Batches) -> Batches:
    """The examples of `first`, then those of `second`, with the batching of `first`."""
    pairs = [(x.inputs, x.targets, x.weight, x.index) for x in (first, second)]
    joined = _joined(*pairs)
    inputs, targets, weight, index = joined
    return first.replace(inputs=inputs, targets=targets, weight=weight, index=index)


def _taken(examples: PyTree, rows: Any) -> PyTree:
    if not at_once.on_host((examples, rows)) or at_once.is_divided((examples, rows)):
        return jax.tree.map(lambda x: x[rows], examples)
    chosen = rows if isinstance(rows, slice) else np.asarray(rows)
    found = jax.tree.map(lambda x: x[chosen], at_once.to_host(examples))
    return at_once.to_devices(found, like=examples)


@at_once.elementwise
def _joined(xp: Any, first: PyTree, second: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: xp.concatenate([a, b]), first, second)


def in_memory(examples: Any) -> Batches:
    """The examples as array-backed `Batches`; an iterable of `Batch` is read to its end."""
    if isinstance(examples, Batches):
        return examples
    found = [checked_batch(batch) for batch in examples]
    if not found:
        raise ValueError("expected at least one batch, found an empty iterable: give data")
    joined = jax.tree.map(lambda *parts: np.concatenate(parts), *(tuple(b) for b in found))
    real = joined[2] > 0
    check_weight(joined[2])
    inputs, targets, weight, index = jax.tree.map(lambda x: jnp.asarray(x[real]), joined)
    return Batches(inputs, targets, weight, index, batch_size=found[0].weight.shape[0])


def checked_batch(batch: Any) -> Batch:
    """The batch; refuses what other libraries iterate over."""
    if not isinstance(batch, Batch):
        raise TypeError(
            f"expected an iterable of mu.Batch, found one of {type(batch).__name__} "
            f"({describe(batch)}): put arrays into mu.batches, and give a loader to "
            "mu.datasets.from_loader, whose rows mu.stream takes"
        )
    return batch


def describe(tree: PyTree) -> str:
    """Types and shapes of the leaves of a tree, such as `float32[4,2]`."""
    leaves = list(map(type_of, jax.tree.leaves(tree)))
    return " ".join(leaves[:4]) + (" ..." if len(leaves) > 4 else "") or "()"


def pad(batch: Batch, size: int) -> Batch:
    """Pad a batch to `size` rows with copies of its last row, weight 0 and index -1."""
    missing = size - batch.weight.shape[0]
    if missing == 0:
        return batch
    if missing < 0:
        raise ValueError(
            f"expected batches of at most {size} rows, found {size - missing}: let the first "
            "batch of an iterable be its largest"
        )
    rows = np.minimum(np.arange(size), batch.weight.shape[0] - 1)
    padded = Batch(*_taken(tuple(batch), rows))
    weight, index = _marked_as_padding(
        (padded.weight, padded.index), np.arange(size) >= size - missing
    )
    return padded._replace(weight=weight, index=index)


@at_once.elementwise
def _marked_as_padding(xp: Any, weight_and_index: tuple, padding: Any) -> tuple:
    weight, index = weight_and_index
    return weight * ~padding, xp.where(padding, -1, index)


def without_padding_values(batch: Batch) -> Batch:
    """Overwrite rows of weight 0 by a real row, so that nothing in padding can reach a sum.

    A batch without a real row becomes zeros.
    """
    valid = batch.weight > 0
    row = jnp.where(valid, jnp.arange(valid.shape[0]), jnp.argmax(valid))

    def overwrite(x):
        return jnp.where(valid.any(), x[row], jnp.zeros_like(x))

    inputs, targets = jax.tree.map(overwrite, (batch.inputs, batch.targets))
    return batch._replace(inputs=inputs, targets=targets)


def ids_of(examples: Any) -> Any:
    """The stable ids of a set of examples; None for an iterable that does not say."""
    index = getattr(examples, "index", None)
    return index if hasattr(index, "shape") else None  # a list has a method of that name


def check_weight(weight: jax.Array, name: str = "examples") -> None:
    """Refuse weights that are negative, not finite, or all 0, where they can be seen."""
    if not is_concrete(weight):
        return
    values = np.asarray(weight)
    bad = ~np.isfinite(values) | (values < 0)
    if bad.any():
        raise ValueError(
            f"expected finite weights >= 0 for the {name}, found {values[bad][0]} at row "
            f"{np.flatnonzero(bad)[0]}: repair the weights or drop these rows"
        )
    if not values.any():
        raise ValueError(
            f"expected at least one row of positive weight in the {name}, found none among "
            f"{values.size}: give a set that is not empty"
        )


def is_concrete(array: Any) -> bool:
    """Whether the value can be looked at: not traced, and all of it on this process."""
    return not isinstance(array, jax.core.Tracer) and getattr(array, "is_fully_addressable", True)


def round_up(number: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is at least `number`."""
    return -(-number // multiple) * multiple


def as_ids(index: Any) -> jax.Array:
    """Stable ids as i32; refuses what is no integer or needs more bits."""
    refuse_set(index, "ids")
    ids = index if isinstance(index, jax.Array) else np.asarray(index)
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise ValueError(
            f"expected integer ids, found {ids.dtype}: give stable integer ids, such as "
            "mu.id_table(ids).numbers(ids) of ids in text"
        )
    if is_concrete(ids) and ids.size:
        bounds, values = np.iinfo(np.int32), np.asarray(ids)
        for end in (int(values.min()), int(values.max())):
            if not bounds.min <= end <= bounds.max:
                raise ValueError(
                    f"expected ids from -2**31 to 2**31 - 1, found {end}: number the examples by "
                    "mu.id_table(ids).numbers(ids)"
                )
    return at_once.as_array(ids, jnp.int32)


def _check_arrays(tree: PyTree) -> None:
    """Refuse loaders and datasets of other libraries in the place of arrays."""
    for leaf in jax.tree.leaves(tree):
        if not hasattr(leaf, "shape") and not np.isscalar(leaf) and not hasattr(leaf, "__array__"):
            how = "from_loader" if hasattr(leaf, "dataset") else "from_records or from_iterable"
            raise TypeError(
                f"expected arrays with one row for each example, found {type(leaf).__name__}: read "
                f"it by mu.datasets.{how}, or give arrays"
            )


def _leading_axis(tree: PyTree) -> int:
    sizes = {np.shape(leaf)[0] if np.ndim(leaf) else 0 for leaf in jax.tree.leaves(tree)}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(
            f"expected inputs and targets with one common leading axis of at least one example, "
            f"found leading sizes {sorted(sizes)}: give one row per example in every array"
        )
    return sizes.pop()
