"""Random training subsets for ensembles that attribution is regressed on."""

from __future__ import annotations

import functools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np


def balanced_masks(
    key: jax.Array, num_models: int, num_examples: int, *, fraction: float = 0.5
) -> jax.Array:
    """Random subsets in which every example occurs equally often, bool[M, n].

    With `fraction = a / q`, a random order of the examples is cut into q parts, and q models each
    leave out `q - a` parts that follow one another: every example is in exactly `a M / q` subsets,
    and every subset holds `a n / q` examples, rounded. At 1/2 models come in complementary pairs,
    which halves the variance of `difference_of_means` compared with independent subsets.

    Args:
      key: typed key; group g of q models takes `fold_in(key, g)`.
      num_models: M, a multiple of q.
      num_examples: n, at least q.
      fraction: share of the examples in each subset, such as 0.5, 0.2 or 0.75.

    Raises:
      ValueError: a fraction outside (0, 1), M that is not a multiple of q, fewer than q examples.

    Example:
      >>> masks = balanced_masks(jax.random.key(0), num_models=6, num_examples=4)
      >>> masks.sum(axis=0).tolist(), masks.sum(axis=1).tolist()
      ([3, 3, 3, 3], [2, 2, 2, 2, 2, 2])
    """
    share = Fraction(fraction).limit_denominator(100)
    parts = share.denominator
    if not 0 < share < 1:
        raise ValueError(
            f"expected a fraction between 0 and 1, found {fraction}: give the share of the "
            "examples in each subset"
        )
    if num_models < 1 or num_models % parts or num_examples < parts:
        raise ValueError(
            f"expected a multiple of {parts} models and at least {parts} examples for fraction "
            f"{share}, found {num_models} models and {num_examples} examples: change the numbers "
            "so that every example can be in equally many subsets"
        )
    numbers = np.arange(num_models // parts)
    masks = _masks(key, numbers, num_examples, parts, share.numerator)
    return masks.reshape(num_models, num_examples)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _masks(
    key: jax.Array, numbers: jax.Array, num_examples: int, parts: int, kept: int
) -> jax.Array:
    """Masks `[groups, parts, examples]`, for each group from a random order of its own."""
    part = jnp.arange(num_examples) * parts // num_examples
    offset = jnp.arange(parts)[:, None]

    def group(number: jax.Array) -> jax.Array:
        parted = jax.random.permutation(jax.random.fold_in(key, number), part)
        return (parted - offset) % parts < kept

    return jax.vmap(group)(numbers)
