"""Array-backed batches with unused rows at the end: sets of many sizes are one program."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from mu_jax import _at_once as at_once
from mu_jax.data.batches import Batches
from mu_jax.data.blocks import at_least
from mu_jax.data.rows import can_be_counted, random_order_of


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class Counted(Batches):
    """Batches of the first `count` rows, at least one batch of them; for loops inside `jit`.

    The count is an argument of the program, and so are its batches: `num_examples` and
    `num_batches` are traced. The rows of a batch and their order are those of the same `Batches`
    without the unused rows, bit for bit.
    """

    count: jax.Array | None = None

    @property
    def num_examples(self) -> jax.Array:  # type: ignore[override]
        """Number of rows that are used, whatever their weight."""
        assert self.count is not None
        return self.count

    def order(self, key: jax.Array) -> jax.Array:
        """A random order of the rows that are used; the other places say nothing."""
        return random_order_of(key, self.num_examples, self.weight.shape[0])


_MOST = 2**30  # bytes to copy


def counted(batches: Batches, key: jax.Array, *, few: int = 256) -> Batches:
    """The same batches with room for more rows; as they are where the rows would be others.

    That is so on a mesh, for sets that are smaller than a batch or larger than 65,536 rows, and for
    generators of random numbers other than JAX's default. Examples of more than 1 GiB are not
    copied either.

    Args:
      batches: arrays that are known. key: a key of the kind that draws the orders.
      few: the least room; more is the power of two that holds the rows.
    """
    n = batches.num_examples
    arrays = jax.tree.leaves((batches.inputs, batches.targets))
    as_they_are = batches.mesh is not None or sum(x.nbytes for x in arrays) > _MOST
    if as_they_are or n < batches.batch_size or not can_be_counted(key, n):
        return batches
    filled = batches.take(np.minimum(np.arange(at_least(few, n)), n - 1))
    fields = {field.name: getattr(filled, field.name) for field in dataclasses.fields(filled)}
    return Counted(**fields, count=at_once.as_array(n, np.int32))
