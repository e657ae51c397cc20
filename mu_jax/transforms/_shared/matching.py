"""The fine-tuning that oracle matching and datamodel matching share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from mu_jax._at_once import elementwise
from mu_jax.data.batches import Batches, concatenate, in_memory
from mu_jax.data.checks import check_range
from mu_jax.data.rows import permutation
from mu_jax.data.streams import Stream
from mu_jax.loops.fit import fit
from mu_jax.model import Model
from mu_jax.objectives.matching import Distance, matching
from mu_jax.transforms._shared.transform import report_fit

PyTree = Any
Targets = Callable[[Batches], jax.Array]


class Recipe(NamedTuple):
    """How targets are matched; the defaults are those of the released code.

    Attributes:
      epochs: passes over the matching pool. batch_size: examples per step.
      retain_multiplier: retained examples in the pool, as a multiple of the forget set.
      forget_multiplier: copies of the forget set in the pool; a fraction adds its first entries.
      distance: "squared" on raw outputs, or "kl" of the softmaxes.
      training_mode: batch statistics of the pool's batches, as in the paper; default inference
        mode, in which statistics do not drift toward the pool.
      proximity: weight of `||theta - theta_0||^2`, may be traced.
      shuffle: the released default is False, which visits all forget examples first.
    """

    epochs: int = 5
    batch_size: int = 512
    retain_multiplier: float = 3.0
    forget_multiplier: float = 1.0
    distance: Distance = "squared"
    training_mode: bool = False
    proximity: jax.Array | float = 0.0
    shuffle: bool = True

    def pool_sizes(self, forget: int, retain: int) -> tuple[int, int]:
        """Forgotten and retained examples in the pool, for sets of these sizes."""
        sampled = round(self.retain_multiplier * forget)
        return int(self.forget_multiplier * forget), min(retain, sampled)

    def num_steps(self, forget: int, retain: int) -> int:
        """Optimizer steps for sets of these sizes; what a schedule needs to know."""
        return self.epochs * -(-sum(self.pool_sizes(forget, retain)) // self.batch_size)

    def check(self) -> None:
        """Refuse multiples and a weight that are negative or no numbers."""
        check_range(
            retain_multiplier=self.retain_multiplier,
            forget_multiplier=self.forget_multiplier,
            proximity=self.proximity,
        )


RELEASED = Recipe()


def match(
    model: Model,
    optimizer: optax.GradientTransformation,
    recipe: Recipe,
    targets: Targets,
    key: jax.Array,
    variables: PyTree,
    sets: tuple[Any, Any],
) -> Any:
    """Draw the matching pool, compute its targets once, and fit them."""
    has_proximity = not (isinstance(recipe.proximity, int | float) and recipe.proximity == 0)
    pool = matching_pool(jax.random.fold_in(key, 0), *sets, recipe)
    pool = pool.replace(targets=targets(pool))
    result = fit(
        model,
        matching(
            model,
            distance=recipe.distance,
            training_mode=recipe.training_mode,
            proximity=recipe.proximity,
        ),
        optimizer,
        variables,
        pool,
        key=jax.random.fold_in(key, 1),
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        frozen={"start": model.params(variables)} if has_proximity else {},
        shuffle=recipe.shuffle,
    )
    return report_fit(model, variables, result, sets)


def matching_pool(key: jax.Array, forget: Any, retain: Any, recipe: Recipe) -> Batches:
    """Copies of the forget set, then a random sample of the retain set in its own order.

    Of a `Stream` only the sample is read; any other iterable is read to its end.
    """
    forget = in_memory(forget)
    retain = retain if isinstance(retain, Stream) else in_memory(retain)
    m, n = forget.num_examples, retain.num_examples
    copies, sampled = recipe.pool_sizes(m, n)
    rows = np.arange(copies) % m
    sample = _sorted(permutation(key, n)[:sampled])
    return concatenate(forget.take(rows), in_memory(retain.take(sample)))


@elementwise
def _sorted(xp: Any, rows: jax.Array) -> jax.Array:
    return xp.sort(rows)
