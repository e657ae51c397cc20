"""Regression datamodels: outputs of models trained on random subsets, explained by the subsets."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from mu_jax._at_once import as_array, holds
from mu_jax.data.batches import is_concrete


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Datamodels:
    """For each target a linear model of its outputs in the training subset.

    `output(x) ~ bias(x) + sum_{i in subset} effects[i, x]`. Effects are per inclusion: positive
    where training on example i raises the output. Removing a group *subtracts* them.

    Effects are estimated around subsets of a certain size, where one example weighs more than in
    the full set, so they tend to be too large: fit `attribution.multiplier` on a held-out group.

    Attributes:
      effects: f[n, T] or f[n, T, K]: training examples, targets, outputs (logits).
      bias: f[T] or f[T, K].
      train_ids: i32[n], stable ids of the training examples.
      target_ids: i32[T], stable ids of the targets.
    """

    effects: jax.Array
    bias: jax.Array
    train_ids: jax.Array
    target_ids: jax.Array

    def predict(self, masks: ArrayLike) -> jax.Array:
        """Outputs of models trained on the subsets `masks`, bool[M, n]: f[M, T, K]."""
        masks = jnp.asarray(masks).astype(self.effects.dtype)
        return self.bias + jnp.tensordot(masks, self.effects, 1, precision="highest")

    def group_effect(self, forget_ids: ArrayLike) -> jax.Array:
        """How much the group raises every output of every target, f[T, K]; summed in float32."""
        rows = self.effects[_positions(self.train_ids, forget_ids, "training examples")]
        return rows.sum(axis=0, dtype=jnp.promote_types(rows.dtype, jnp.float32))

    def predict_without(
        self, forget_ids: ArrayLike, outputs: ArrayLike, *, multiplier: jax.Array | float = 1.0
    ) -> jax.Array:
        """Outputs that a model would have had without the group, f[T, K].

        `outputs - multiplier * group_effect`, from the outputs of the model itself, so that the
        spread between models is kept.
        """
        return jnp.asarray(outputs) - multiplier * self.group_effect(forget_ids)

    def effect(self, forget: Any, data: Any) -> jax.Array:
        """How much the forget set raises every output of `data`, f[n, K], found by their ids.

        The same call as `Trak.effect`; the examples of `data` must be among the targets.
        """
        columns = _positions(self.target_ids, data.index, "targets")
        return self.group_effect(forget.index)[columns]


def ridge(masks: ArrayLike, outputs: ArrayLike, *, penalty: jax.Array | float) -> Datamodels:
    """Datamodels by ridge regression: one factorization for all targets and outputs.

    `effects = (X^T X + penalty I)^-1 X^T Y` with X and Y the masks and outputs minus their means
    over the models, so that the intercept is not penalized. With fewer models than examples the
    same is `X^T (X X^T + penalty I)^-1 Y`.

    Args:
      masks: bool[M, n], which examples each model was trained on.
      outputs: f[M, T] or f[M, T, K], what it says on each target.
      penalty: positive, as subsets of a fixed size make `X^T X` singular; 1e-3 M if models abound,
        more (chosen on held-out models) if there are fewer models than examples.

    Returns:
      `Datamodels` with ids 0, 1, ...; see `with_ids`.

    Raises:
      ValueError: masks and outputs that do not fit, too few models, an example that is in every or
        in no subset, outputs that are not finite, a penalty that is not positive.

    Cost: `min(n, M)^3 / 3 + 2 n M T K` operations; float64 under x64, float32 otherwise.

    Reference:
      A. Ilyas, S. M. Park, L. Engstrom, G. Leclerc, A. Madry. Datamodels: Predicting Predictions
      from Training Data. ICML 2022.

    Example:
      >>> masks = jnp.array([[1, 0], [0, 1], [1, 1], [0, 0]], bool)
      >>> outputs = 3.0 * masks[:, :1] + 1.0
      >>> [round(float(effect), 4) for effect in ridge(masks, outputs, penalty=1.0).effects[:, 0]]
      [1.5, 0.0]
    """
    design, responses = check_ensemble(masks, outputs)
    if is_concrete(penalty) and not np.all(np.asarray(penalty) > 0):
        raise ValueError(
            f"expected a positive penalty, found {penalty}: subsets of a fixed size are singular "
            "without one"
        )
    x, y = design - design.mean(0), responses - responses.mean(0)
    models, examples = x.shape

    def solve(matrix, right):
        raised = matrix + penalty * jnp.eye(len(matrix), dtype=matrix.dtype)
        return jax.scipy.linalg.solve(raised, right, assume_a="pos")

    if examples <= models:
        effects = solve(product(x.T, x), product(x.T, y))
    else:
        effects = product(x.T, solve(product(x, x.T), y))
    return assemble(effects, design, outputs)


def difference_of_means(masks: ArrayLike, outputs: ArrayLike) -> Datamodels:
    """Datamodels as mean output with the example minus mean output without it.

    One product of matrices; equals least squares where the columns of the masks are uncorrelated.
    Correct predictions as outputs give the influence of Feldman and Zhang, and on the examples
    themselves their memorization score (`memorization`).

    Args:
      masks: bool[M, n]. outputs: f[M, T] or f[M, T, K].

    Returns:
      `Datamodels` with ids 0, 1, ....

    Raises:
      ValueError: as `ridge`.

    Cost: `2 n M T K` operations.

    Example:
      >>> masks = jnp.array([[1, 0], [0, 1], [1, 1], [0, 0]], bool)
      >>> difference_of_means(masks, 3.0 * masks[:, :1] + 1.0).effects[:, 0]
      Array([3., 0.], dtype=float32)
    """
    design, responses = check_ensemble(masks, outputs)
    centered = responses - responses.mean(0)  # cancels in the difference, keeps the rounding small
    share = design.mean(0)[:, None]
    sums = product(design.T, centered) / len(design)
    return assemble(sums / share + sums / (1 - share), design, outputs)


def with_ids(models: Datamodels, *, train: ArrayLike, targets: ArrayLike) -> Datamodels:
    """The same datamodels with the stable ids of their training examples and targets."""
    ids = [np.asarray(train), np.asarray(targets)]
    for name, found, size in zip(("train", "targets"), ids, models.effects.shape, strict=False):
        if found.shape != (size,) or np.unique(found).size != size:
            raise ValueError(
                f"expected {size} different ids for {name}, found shape {found.shape} with "
                f"{np.unique(found).size} different ones: give one id for each"
            )
    train_ids, target_ids = (jnp.asarray(x, jnp.int32) for x in ids)
    return dataclasses.replace(models, train_ids=train_ids, target_ids=target_ids)


def check_ensemble(masks: ArrayLike, outputs: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """Masks f[M, n] and outputs f[M, targets], or a sentence on what is wrong with them."""
    masks, outputs = as_array(masks), as_array(outputs)
    if masks.ndim != 2 or outputs.ndim < 2 or len(outputs) != len(masks):
        raise ValueError(
            f"expected masks [M, n] and outputs [M, T] or [M, T, K] of the same M models, found "
            f"{masks.shape} and {outputs.shape}: give one row of each for every model"
        )
    if len(masks) < 2:
        raise ValueError(
            f"expected at least 2 models, found {len(masks)}: train more on other subsets"
        )
    _check_values(masks, outputs)
    dtype = jnp.promote_types(outputs.dtype, jnp.float32)
    return masks.astype(dtype), outputs.reshape(len(outputs), -1).astype(dtype)


def _check_values(masks: jax.Array, outputs: jax.Array) -> None:
    if not (is_concrete(masks) and is_concrete(outputs)):
        return
    if not holds(lambda xp, drawn: xp.all((drawn == 0) | (drawn == 1)), masks):
        raise ValueError("expected masks of 0 and 1, found other values: give Boolean masks")
    counts = np.asarray(masks).sum(0, dtype=np.int64)
    fixed = np.flatnonzero((counts == 0) | (counts == len(masks)))
    if fixed.size:
        raise ValueError(
            f"expected every example in some subsets and not in others, found {fixed.size} in all "
            f"or none of {len(masks)} (first: {fixed[0]}): train more models, or on balanced_masks"
        )
    if not holds(lambda xp, found: xp.isfinite(found).all(), outputs):
        raise ValueError(
            "expected finite outputs, found NaN or infinity: leave out the models that diverged"
        )


def product(a: jax.Array, b: jax.Array) -> jax.Array:
    """A product of matrices in full precision on every backend."""
    return jnp.matmul(a, b, precision="highest")


def assemble(effects: jax.Array, design: jax.Array, outputs: ArrayLike) -> Datamodels:
    """Datamodels of effects f[n, targets]; the intercept goes through the means."""
    shape = np.shape(outputs)[1:]
    mean = jnp.asarray(outputs).reshape(len(design), -1).mean(0, dtype=effects.dtype)
    bias = mean - product(design.mean(0), effects)
    ids = (jnp.arange(size, dtype=jnp.int32) for size in (len(effects), shape[0]))
    return Datamodels(effects.reshape(-1, *shape), bias.reshape(shape), *ids)


def _positions(known: jax.Array, wanted: ArrayLike | Sequence[int], name: str) -> jax.Array:
    """Where each wanted id stands among the known ones."""
    wanted = as_array(wanted)
    position, missing = _look_up(known, wanted)
    if is_concrete(missing) and holds(lambda xp, missing: missing.any(), missing):
        first = np.asarray(wanted)[np.argmax(missing)]
        raise ValueError(
            f"expected ids of {name} of these datamodels, found {np.sum(missing)} unknown "
            f"(first: {first}): check them, or name them by with_ids"
        )
    return position


@jax.jit
def _look_up(known: jax.Array, wanted: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where the wanted ids stand, and which of them are not known."""
    order = jnp.argsort(known)
    place = jnp.searchsorted(known, wanted, sorter=order)
    position = order[jnp.minimum(place, known.size - 1)]
    return position, known[position] != wanted
