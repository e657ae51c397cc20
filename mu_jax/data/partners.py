"""Partners: rows of another set, drawn anew for every row of every batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mu_jax.data.batches import Batch, Batches


def whole(examples: Batches) -> Batch:
    """All examples as one batch, to draw partners from."""
    return Batch(examples.inputs, examples.targets, examples.weight, examples.index)


def partners(key: jax.Array, batch: Batch, others: Batch, count: int = 1) -> Batch:
    """`count` rows of `others` for each row of a batch, drawn uniformly and with replacement.

    What is drawn for a row follows the key and the id of the row alone: neither the batch it is in,
    nor padding, parts of the batch or devices change it. With the key of a step of `mu.fit` it is
    drawn anew at every access, and a resumed fit draws the same.

    Args:
      key: a PRNG key, of the step.
      batch: B rows.
      others: n rows, of which those of weight 0 are never drawn; at least one has a weight.
      count: partners of each row.

    Returns:
      A `Batch` of B x count rows, the partners of a row behind one another. The weight is that of
      the partner, 0 for partners of padding.

    Example:
      >>> others = Batch(jnp.arange(3), (), jnp.array([1.0, 0.0, 1.0]), jnp.arange(3))
      >>> batch = Batch((), (), jnp.array([1.0, 1.0, 0.0]), jnp.array([7, 8, -1]))
      >>> drawn = partners(jax.random.key(0), batch, others, count=2)
      >>> drawn.inputs.shape, drawn.weight.tolist(), 1 in drawn.inputs
      ((6,), [1.0, 1.0, 1.0, 1.0, 0.0, 0.0], False)
    """
    real = jnp.cumsum(others.weight > 0, dtype=jnp.int32)

    def draw(index: jax.Array) -> jax.Array:
        return jax.random.randint(jax.random.fold_in(key, index), (count,), 0, real[-1])

    places = jax.vmap(draw)(batch.index).reshape(-1)
    rows = jnp.searchsorted(real, places, side="right")
    found = jax.tree.map(lambda x: x.at[rows].get(mode="promise_in_bounds"), others)
    some = jnp.repeat(batch.weight > 0, count)
    return found._replace(weight=jnp.where(some, found.weight, 0))
